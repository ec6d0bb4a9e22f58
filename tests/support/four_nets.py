"""Four small networks of different architectures, with a task each, for every compression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.compress.method import CalibrationContext
from limbeck.tasks import TASKS, Task, mean_loss

CLASSES = ("a", "b", "c", "d")
SAMPLES = 32


class ResidualNet(nn.Module):
    """A convolutional net with a residual sum, a depthwise convolution and batch norms."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.deep = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.wide = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.hidden = nn.Linear(2 * width, 24)
        self.head = nn.Linear(24, len(CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.stem(image))
        x = F.relu(x + self.deep(x))
        return self.head(F.relu(self.hidden(self.wide(x).mean((2, 3)))))


class LstmNet(nn.Module):
    """An embedding, an LSTM, and a head over its mean output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.lstm = nn.LSTM(12, 16, batch_first=True)
        self.hidden = nn.Linear(16, 20)
        self.head = nn.Linear(20, len(CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        outputs, _ = self.lstm(self.embedding(input_ids))
        weights = attention_mask.unsqueeze(-1).to(outputs.dtype)
        return self.head(F.relu(self.hidden((outputs * weights).sum(1) / weights.sum(1))))


def bert() -> nn.Module:
    """A BERT of two layers."""
    transformers = pytest.importorskip("transformers", reason="transformers is an extra")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=len(CLASSES),
    )
    return transformers.BertForSequenceClassification(config)


def vit() -> nn.Module:
    """A vision transformer of two layers."""
    timm = pytest.importorskip("timm", reason="timm is an extra")
    torch.manual_seed(0)
    return timm.models.vision_transformer.VisionTransformer(
        img_size=8,
        patch_size=4,
        embed_dim=16,
        depth=2,
        num_heads=4,
        num_classes=len(CLASSES),
        mlp_ratio=2.0,
    )


@dataclass(frozen=True)
class Subject:
    """A network, its task, and samples."""

    model: nn.Module
    task: Task
    batch: Mapping[str, Tensor]

    @property
    def work(self) -> CalibrationContext:
        """Return the context of a compression method."""

        def batches() -> Iterator[Mapping[str, Tensor]]:
            yield self.batch

        def accuracy(model: nn.Module) -> float:
            with torch.no_grad():
                predicted = self.task.outputs(model, self.batch)["logits"].argmax(-1)
            return float((predicted == self.batch["labels"]).float().mean())

        return CalibrationContext(
            batches=batches,
            forward=lambda model, batch: self.task.outputs(model, batch)["logits"],
            loss=lambda model, batch: mean_loss(self.task, self.task.respond(model, batch)),
            validate=accuracy,
            seed=0,
        )

    def logits(self, model: nn.Module | None = None) -> Tensor:
        """Return the logits of the samples, in evaluation mode."""
        model = (model or self.model).eval()
        with torch.no_grad():
            return self.task.outputs(model, self.batch)["logits"]


def subject(name: str) -> Subject:
    """Create `cnn`, `bert`, `vit` or `lstm` from a fixed seed, with calibrated batch norms."""
    torch.manual_seed(0)
    label = torch.arange(SAMPLES) % len(CLASSES)
    if name in ("cnn", "vit"):
        model = ResidualNet() if name == "cnn" else vit()
        task = TASKS.load("image_classification")(classes=CLASSES)
        side = 8
        batch = {"image": torch.randn(SAMPLES, 3, side, side), "labels": label}
    else:
        model = LstmNet() if name == "lstm" else bert()
        task = TASKS.load("text_classification")(classes=CLASSES)
        tokens = torch.randint(1, 50, (SAMPLES, 10))
        mask = torch.ones_like(tokens)
        mask[::2, 7:] = 0
        batch = {"input_ids": tokens, "attention_mask": mask, "labels": label}
    made = Subject(model, task, batch)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            task.outputs(model, batch)
    model.eval()
    return made


NETS = ("cnn", "bert", "vit", "lstm")
