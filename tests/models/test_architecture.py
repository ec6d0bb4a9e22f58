"""architecture.py builds the same module, bit for bit, without limbeck."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.models.build import architecture, build
from limbeck.models.spec import ModelSpec

Alone = Callable[..., torch.Tensor]

SOURCE = """
import torch

class Net(torch.nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.linear = torch.nn.Linear(64, width)
        self.head = torch.nn.Linear(width, classes)

    def forward(self, image):
        return self.head(self.linear(image.flatten(1)))

def build(classes, width):
    return Net(classes, width)
"""


def _check_same(spec: ModelSpec, alone: Alone, size: int, channels: int) -> None:
    fit = {"classes": 10, "channels": channels}
    model = build(spec, **fit).eval()
    image = torch.randn(2, channels, size, size)
    with torch.inference_mode():
        expected = model(image)
    text = architecture(spec, **fit)
    assert "limbeck" not in text
    assert torch.equal(alone(model, text, {"image": image}), expected)


@pytest.mark.parametrize(
    ("name", "arguments", "size", "channels"),
    [("digits_cnn", {"width": 16}, 8, 1), ("resnet8x4", {"shortcut": "pad"}, 32, 3)],
)
def test_reference_nets(
    alone: Alone, name: str, arguments: dict[str, Any], size: int, channels: int
) -> None:
    _check_same(ModelSpec(source="limbeck", name=name, **arguments), alone, size, channels)


def test_a_user_file_whose_callable_is_named_build(alone: Alone, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SOURCE)
    spec = ModelSpec(source="python", name=f"{tmp_path}/mine.py:build", width=3)
    _check_same(spec, alone, 8, 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_builder_of_another_precision_yields_float32(
    alone: Alone, tmp_path: Path, dtype: str
) -> None:
    text = SOURCE.replace("Net(classes, width)", f"Net(classes, width).to(torch.{dtype})")
    (tmp_path / "mine.py").write_text(text)
    _check_same(ModelSpec(source="python", name=f"{tmp_path}/mine.py:build", width=3), alone, 8, 1)


def test_a_user_module(alone: Alone) -> None:
    spec = ModelSpec(
        source="python", name="torch.nn:Conv2d", in_channels=1, out_channels=3, kernel_size=3
    )
    model = build(spec, classes=10, channels=1).eval()
    inputs = torch.randn(1, 1, 4, 4)
    text = architecture(spec, classes=10, channels=1)
    assert torch.equal(alone(model, text, {"input": inputs}), model(inputs))


def test_the_perceptron_for_tables(alone: Alone) -> None:
    spec = ModelSpec(source="limbeck", name="tabular_mlp", width=8, depth=3)
    model = build(spec, classes=2, table_features=13).eval()
    rows = torch.randn(4, 13)
    text = architecture(spec, classes=2, table_features=13)
    assert torch.equal(alone(model, text, {"features": rows}), model(rows))
