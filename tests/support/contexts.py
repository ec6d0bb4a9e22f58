"""An evaluation context of a small trained student and teacher on handwritten digits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from limbeck.evaluate.context import (
    Batch,
    EvaluatedModel,
    EvaluationContext,
    Normalization,
    TorchModel,
)
from limbeck.export.predictor import TorchPredictor
from limbeck.models.nets.digits_cnn import digits_cnn
from limbeck.tasks.image_classification import ImageClassification

CLASSES = tuple(str(digit) for digit in range(10))
MEAN, STD = 0.3, 0.4


@cache
def _data() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    return (pixels - MEAN) / STD, labels.astype(np.int64)


def _trained(width: int, steps: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    images, labels = (torch.from_numpy(part[:1000]) for part in _data())
    model = digits_cnn(10, width=width)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        rows = torch.randint(1000, (128,))
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@cache
def _models() -> tuple[EvaluatedModel, EvaluatedModel]:
    task = ImageClassification(classes=CLASSES)
    trained = {"student": _trained(4, 60, 0), "teacher": _trained(8, 120, 1)}
    student, teacher = (
        EvaluatedModel(name, TorchPredictor(model, task), TorchModel(model, task))
        for name, model in trained.items()
    )
    return student, teacher


def _batches(first: int, last: int) -> Iterator[Batch]:
    images, labels = _data()
    for start in range(first, last, 64):
        stop = min(start + 64, last)
        yield {"image": images[start:stop], "labels": labels[start:stop]}


def digits(*, samples: int = 200, max_samples: int = 40, teacher: bool = True) -> EvaluationContext:
    """Return a context of both models on digits that were not used for training."""
    student, trained_teacher = _models()
    return EvaluationContext(
        student=student,
        teacher=trained_teacher if teacher else None,
        batches=lambda: _batches(1200, 1200 + samples),
        validation=lambda: _batches(1000, 1200),
        classes=CLASSES,
        normalization=Normalization(mean=(MEAN,), std=(STD,)),
        sensitive_features={"writer": np.array(["left", "right"])[np.arange(samples) % 2]},
        max_samples=max_samples,
    )
