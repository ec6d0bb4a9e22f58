"""A student folder with three files, the facts about it, and its passport."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from limbeck.passport import (
    DatasetFacts,
    MetricFacts,
    ModelFacts,
    PassportFacts,
    build_passport,
    render,
)

DIGITS = DatasetFacts(
    "digits", "sklearn", "d" * 64, "CC-BY-4.0", ("0", "1", "2"), {"train": 1000, "test": 360}
)
WEB = DatasetFacts("web pages", "hub:web", "4f2a", "", (), {"train": 10**9})
LARGE = ModelFacts("large", "https://example.org/large", "a" * 64, licence="MIT", data=(WEB,))
BASE = ModelFacts("base", "hub:base", "b" * 64, licence="ask first", ancestors=(LARGE,))
TEACHER = ModelFacts(
    "digits_cnn",
    "taught in this run",
    "c" * 64,
    metrics=(MetricFacts("accuracy", 0.987, 0.98, 0.99, slice="test"),),
    data=(DIGITS,),
    ancestors=(BASE,),
)


@pytest.fixture
def facts(tmp_path: Path) -> PassportFacts:
    folder = tmp_path / "student"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bytes(range(256)) * 2)
    (folder / "README.md").write_text("# digits\n", encoding="utf-8")
    (folder / "tokenizer" / "vocab.txt").write_text("[PAD]\nä\n", encoding="utf-8")
    return PassportFacts(
        name="digits",
        task="image_classification",
        folder=folder,
        model_file="model.onnx",
        timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        version="1",
        licence="apache-2.0",
        architecture_family="convolutional network",
        architecture="digits_cnn, width 8",
        inputs=("image float32 [n, 1, 8, 8]",),
        outputs=("logits float32 [n, 10]",),
        teachers=(TEACHER,),
        data=(DIGITS,),
        recipe={"name": "digits", "stages": [{"teach": {"epochs": 20}}], "note": "naïve"},
        metrics=(
            MetricFacts("accuracy", 0.972, 0.96, 0.98, slice="test"),
            MetricFacts("latency_p50", 0.05, unit="ms"),
        ),
        versions={"limbeck": "0.1.0", "python": "3.11.2", "torch": "2.9.0+cpu"},
        seeds=(0, 1, 2),
        git_commit="5f0b4de",
        hardware="2 cores",
        limits=("Only digits of 8 by 8 pixels.",),
        tradeoffs=("1.5 points of accuracy for a fifteenth of the size.",),
    )


@pytest.fixture
def student(facts: PassportFacts) -> Path:
    passport = render(build_passport(facts))
    (facts.folder / "passport.json").write_text(passport, encoding="utf-8")
    return facts.folder
