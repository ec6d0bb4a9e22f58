"""Students of images, texts and table rows: untrained models in the files that ship."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from encoded_images import random_image
from torch import Tensor, nn

from limbeck.data.load import Data, load
from limbeck.data.spec import DataSpec
from limbeck.export.onnx import to_onnx
from limbeck.tasks import TASKS


@dataclass
class Shipped:
    folder: Path
    data: Data


class TextNet(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(size, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (self.words(input_ids) * attention_mask[..., None]).sum(dim=1)


def _ship(
    folder: Path, spec: dict[str, Any], task: str, build: Callable[..., nn.Module]
) -> Shipped:
    data = load(DataSpec(max_overlap=1, **spec), workdir=folder)
    torch.manual_seed(0)
    batch = data.train.__getitems__([0, 1])
    to_onnx(build(data), TASKS.load(task)(classes=data.classes), batch, folder / "model.onnx")
    data.preprocess.save(folder)
    return Shipped(folder, data)


def _flat(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    folder = tmp_path_factory.mktemp("images") / "student"
    rows = {
        "image": [random_image(seed) for seed in range(42)],
        "label": ["cat", "dog", "cow"] * 14,
    }
    datasets.Dataset.from_dict(rows).to_parquet(folder.parent / "rows.parquet")
    spec = {
        "source": "parquet", "files": {"train": str(folder.parent / "rows.parquet")},
        "image": {"size": 7, "channels": 3}, "classes": ["cat", "dog", "cow"],
    }  # fmt: skip
    return _ship(folder, spec, "image_classification", lambda _: _flat(3 * 49, 3))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    folder = tmp_path_factory.mktemp("digits") / "run" / "student"
    spec = {"source": "sklearn", "name": "digits"}
    return _ship(folder, spec, "image_classification", lambda _: _flat(64, 10))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("texts") / "student"
    words = ["good", "bad", "film", "plot", "ünïcödé", "🙂"]
    rows = {
        "text": [" ".join(np.random.default_rng(n).choice(words, 1 + n % 20)) for n in range(60)],
        "label": ["no", "so", "yes"] * 20,
    }
    datasets.Dataset.from_dict(rows).to_parquet(folder.parent / "rows.parquet")
    spec = {
        "source": "parquet", "files": {"train": str(folder.parent / "rows.parquet")},
        "text": {"max_length": 8, "tokenizer": {"train": {"vocab_size": 60}}},
        "classes": ["no", "so", "yes"],
    }  # fmt: skip
    build = lambda data: TextNet(data.preprocess.vocab_size)  # noqa: E731
    return _ship(folder, spec, "text_classification", build)


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    folder = tmp_path_factory.mktemp("table") / "student"
    folder.mkdir()
    draw = np.random.default_rng(0)
    lines = ["age,job,zip,pay"]
    for row in range(80):
        age = "" if row % 7 == 0 else f"{draw.normal(40, 9):.2f}"
        job = "" if row % 9 == 0 else draw.choice(["cook", "nurse", f"rare {row}"])
        lines.append(f"{age},{job},0{draw.integers(3)},{draw.choice(['low', 'high'])}")
    (folder.parent / "rows.csv").write_text("\n".join(lines) + "\n")
    spec = {
        "source": "csv", "files": {"train": str(folder.parent / "rows.csv")},
        "table": {"numeric": ["age"], "categorical": ["job", "zip"]}, "columns": {"label": "pay"},
        "classes": ["low", "high"],
    }  # fmt: skip
    build = lambda data: _flat(data.preprocess.width, 2)  # noqa: E731
    return _ship(folder, spec, "tabular_classification", build)
