"""Three models of different kinds, each exported once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import Runnable
from limbeck.tasks.image_classification import ImageClassification
from limbeck.tasks.text_classification import TextClassification

CLASSES = tuple("abcde")


@dataclass
class Exported:
    model: nn.Module
    task: Runnable
    path: Path
    draw: Callable[[int], dict[str, Tensor]]


class Residual(nn.Module):
    """A depthwise separable block with a shortcut, as in mobile networks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.depthwise(x)))
        return torch.relu(x + self.norm2(self.pointwise(y)))


def with_random_norms(model: nn.Module) -> nn.Module:
    """Randomize the statistics and scales of batch norms, so that folding has an effect."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 2.0)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor)
    return model


@pytest.fixture(scope="package")
def cnn() -> nn.Module:
    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 5))
    return with_random_norms(nn.Sequential(*stem, Residual(8), Residual(8), *head))


@pytest.fixture(scope="package")
def mlp() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Flatten(), nn.Linear(27, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 5))
    return with_random_norms(nn.Sequential(*layers))


@pytest.fixture(scope="package")
def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(2)
    config = transformers.BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
        num_labels=5,
    )
    model = transformers.BertForSequenceClassification(config)
    for parameter in model.parameters():  # away from the tiny weights of a fresh model
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def images(count: int, size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return {
        "image": torch.randn(count, 3, size, size, generator=generator),
        "labels": torch.randint(5, (count,), generator=generator),
    }


def texts(count: int, tokens: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(count)
    tokens = tokens or 1 + count % 47
    lengths = torch.randint(1, tokens + 1, (count, 1), generator=generator)
    return {
        "input_ids": torch.randint(100, (count, tokens), generator=generator),
        "attention_mask": (torch.arange(tokens) < lengths).long(),
        "labels": torch.randint(5, (count,), generator=generator),
    }


@pytest.fixture(scope="package")
def exported(
    tmp_path_factory: pytest.TempPathFactory, cnn: nn.Module, mlp: nn.Module, bert: nn.Module
) -> dict[str, Exported]:
    folder = tmp_path_factory.mktemp("exported")
    image, text = ImageClassification(CLASSES), TextClassification(CLASSES)
    made = {
        "cnn": Exported(cnn, image, folder / "cnn.onnx", lambda n: images(n, 12)),
        "mlp": Exported(mlp, image, folder / "mlp.onnx", lambda n: images(n, 3)),
        "bert": Exported(bert, text, folder / "bert.onnx", texts),
    }
    for one in made.values():
        one.model.train()
        to_onnx(one.model, one.task, one.draw(3), one.path)
    return made
