"""Real digits, and two networks trained on them briefly: the recipe's and a larger one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from limbeck.export.onnx import to_onnx
from limbeck.tasks.image_classification import ImageClassification

TASK = ImageClassification(tuple("0123456789"))


@dataclass
class Digits:
    path: Path
    parameters: int
    calibration: list[dict[str, Tensor]]
    test: list[dict[str, Tensor]]


def net(width: int) -> nn.Sequential:
    def block(into: int, out: int) -> list[nn.Module]:
        return [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]

    first, second = [*block(1, width), nn.MaxPool2d(2)], [*block(width, 2 * width), nn.MaxPool2d(2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10)]
    return nn.Sequential(*first, *second, *block(2 * width, 4 * width), *head)


def trained(width: int, epochs: int, images: Tensor, labels: Tensor) -> nn.Sequential:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # nets this small lose time to every further thread
    model = net(width)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


@pytest.fixture(scope="package", params=[(8, 20), (56, 4)], ids=["small", "large"])
def digits(request, tmp_path_factory) -> Digits:
    width, epochs = request.param
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.images / 16, dtype=torch.float32)[order, None]
    labels = torch.tensor(data.target)[order]
    model = trained(width, epochs, images[:1000], labels[:1000])
    path = tmp_path_factory.mktemp("digits") / f"digits{width}.onnx"
    to_onnx(model, TASK, {"image": images[:2]}, path)
    batches = [
        {"image": some, "labels": right}
        for some, right in zip(images.split(100), labels.split(100), strict=True)
    ]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Digits(path, parameters, batches[:4], batches[10:])
