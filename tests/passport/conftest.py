"""Student folders: one with three files of any content, and one with real models, signed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from limbeck.passport import (
    CarbonFacts,
    DatasetFacts,
    DifferenceFacts,
    MetricFacts,
    ModelFacts,
    PassportFacts,
    build_passport,
    embed_metadata,
    make_keys,
    render,
    sign,
)

DIGITS = DatasetFacts(
    "digits", "sklearn", "d" * 64, "CC-BY-4.0", ("0", "1", "2"), {"train": 1000, "test": 360}
)
WEB = DatasetFacts("web pages", "hub:web", "4f2a", "", (), {"train": 10**9})
LARGE = ModelFacts("large", "https://example.org/large", "a" * 64, licence="MIT", data=(WEB,))
BASE = ModelFacts("base", "hub:base", "b" * 64, licence="on request", ancestors=(LARGE,))
TEACHER = ModelFacts(
    "digits_cnn",
    "trained in this run",
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
        recipe={"name": "digits", "stages": [{"train_teacher": {"epochs": 20}}], "note": "naïve"},
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


def write_models(folder: Path) -> None:
    """Write a network of one layer as ONNX and as safetensors."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import save_file

    weights = np.arange(12, dtype=np.float32).reshape(4, 3) / 7
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["image", "w"], ["logits"])],
        "one layer",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"classes": "a,b,c"})
    onnx.save(model, folder / "model.onnx")
    tensors = {"w": weights, "b": np.zeros(3, dtype=np.float16)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_passport(facts: PassportFacts) -> None:
    passport = render(build_passport(facts))
    (facts.folder / "passport.json").write_text(passport, encoding="utf-8")


@pytest.fixture
def real(facts: PassportFacts) -> PassportFacts:
    """A student with real model files, not yet stamped and without a passport."""
    write_models(facts.folder)
    return dataclasses.replace(
        facts,
        owner="Example Institute",
        terms=("non-commercial",),
        flags=("dual-use",),
        risk="limited",
        robustness=(DifferenceFacts("accuracy under PGD", -0.004, -0.012, 0.003, margin=0.02),),
        carbon=CarbonFacts(12.5, 380.0, "Germany, 2024", "training and distillation"),
        environment={"cpu": "avx2"},
        negative_results=("Width 4 lost 3 points.",),
    )


@dataclass(frozen=True)
class Signed:
    """A signed student, the facts about it, and the keys of two people."""

    folder: Path
    facts: PassportFacts
    private: Path
    public: Path
    other_private: Path
    other_public: Path


@pytest.fixture(scope="session")
def signed_once(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    pytest.importorskip("model_signing", reason="signing needs the sign extra")
    place = tmp_path_factory.mktemp("signed")
    keys = [place / f"{name}.pem" for name in ("private", "public", "other", "other-public")]
    make_keys(*keys[:2])
    make_keys(*keys[2:])
    folder = place / "student"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "README.md").write_text("# digits\n", encoding="utf-8")
    (folder / "tokenizer" / "vocab.txt").write_text("[PAD]\n", encoding="utf-8")
    (folder / ".gitignore").write_text("*.pyc\n", encoding="utf-8")
    write_models(folder)
    facts = PassportFacts(
        name="digits",
        task="image_classification",
        folder=folder,
        model_file="model.onnx",
        timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        licence="MIT",
        teachers=(TEACHER,),
        data=(DIGITS,),
        recipe={"name": "digits"},
    )
    embed_metadata(facts)
    write_passport(facts)
    sign(folder, keys[0])
    return Signed(folder, facts, *keys)


@pytest.fixture
def signed(signed_once: Signed, tmp_path: Path) -> Signed:
    return copied(signed_once, tmp_path / "copy")


def copied(signed: Signed, place: Path) -> Signed:
    shutil.copytree(signed.folder, place)
    return dataclasses.replace(
        signed, folder=place, facts=dataclasses.replace(signed.facts, folder=place)
    )


@pytest.fixture
def write() -> Callable[[PassportFacts], None]:
    return write_passport


@pytest.fixture
def copy() -> Callable[[Signed, Path], Signed]:
    return copied
