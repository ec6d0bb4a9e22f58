"""One line on a plain module gives what a recipe's stages give."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from every_method import SETTINGS, attempt, method, of_models
from four_nets import subject
from safetensors.torch import load_file
from torch import Tensor, nn

import limbeck
from limbeck.data.load import load
from limbeck.data.modalities.image import ImagePreprocess
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError
from limbeck.export.compact.onnx import pack
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor
from limbeck.models.nets.digits_cnn import digits_cnn

FUNCTIONS = {
    "prune": limbeck.prune, "factorize": limbeck.factorize, "quantize": limbeck.quantize,
}  # fmt: skip


def equal(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize("name", [one for one in of_models() if not method(one).needs_training])
def test_a_function_changes_a_copy_as_the_method_does(name: str) -> None:
    made = subject("bert" if name in ("prune.heads", "prune.layers") else "cnn")
    expected, before = copy.deepcopy(made.model), copy.deepcopy(made.model)
    result, refused = attempt(lambda: method(name).transform(expected, made.work))
    family, _, kind = name.partition(".")
    found, why = attempt(
        lambda: FUNCTIONS[family](made.model, made.batch, method=kind, **SETTINGS[name])
    )
    assert why == refused
    assert equal(made.model, before)
    if found is not None:
        assert found.result == result
        assert equal(found.model, expected)
        assert not equal(found.model, before)


@pytest.mark.parametrize("name", [one for one in of_models() if method(one).needs_training])
def test_a_method_that_needs_a_training_is_refused(name: str) -> None:
    made = subject("cnn")
    family, _, kind = name.partition(".")
    with pytest.raises(InputError, match="allowed: a method without training"):
        FUNCTIONS[family](made.model, made.batch, method=kind, **SETTINGS[name])


RECIPE = """
name: chain
task: image_classification
data: {source: sklearn, name: digits}
teacher: {source: limbeck, name: digits_cnn, width: 16}
seeds: [3]
stages:
  - train_teacher: {epochs: 1}
  - prune: {method: channels, ratio: 0.5, calibration: 256}
  - factorize: {method: svd, energy: 0.8, calibration: 256}
  - quantize: {method: uniform, bits: 4, calibration: 256}
  - export: {format: onnx}
"""


@pytest.mark.slow
def test_a_chain_of_functions_equals_the_stages(tmp_path: Path, quick_measuring: None) -> None:
    (tmp_path / "chain.yaml").write_text(RECIPE)
    limbeck.run(limbeck.resolve(str(tmp_path / "chain.yaml")), out=tmp_path / "run")
    stages = tmp_path / "run" / "stages"
    data = load(DataSpec(source="sklearn", name="digits"), workdir=tmp_path)
    example = {"image": data.train.__getitems__(range(256))["image"]}
    model = digits_cnn(10, width=16, channels=1)
    model.load_state_dict(load_file(stages / "01-train_teacher" / "model.safetensors"))
    steps = {
        "02-prune": (limbeck.prune, {"method": "channels", "ratio": 0.5}),
        "03-factorize": (limbeck.factorize, {"energy": 0.8}),
        "04-quantize": (limbeck.quantize, {"bits": 4}),
    }
    for folder, (function, settings) in steps.items():
        model, result = function(model, example, seed=3, **settings)
        saved = load_file(stages / folder / "model.safetensors")
        state = model.state_dict()
        assert state.keys() == saved.keys()
        assert all(torch.equal(state[name], saved[name]) for name in state), folder
        record = json.loads((stages / folder / "record.json").read_text())
        assert record["what"] == result.what
        path = limbeck.export(model, example, tmp_path / folder)
        assert path.read_bytes() == (stages / folder / "model.onnx").read_bytes()


def test_a_pair_of_a_loader_has_inputs_and_labels() -> None:
    made = subject("cnn")
    settings = {"ratio": 0.5, "importance": "taylor"}
    pair = (made.batch["image"], made.batch["labels"])
    found, expected = (limbeck.prune(made.model, one, **settings) for one in (pair, made.batch))
    assert equal(found.model, expected.model)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = subject("cnn")
    return limbeck.export(made.model, made.batch, tmp_path_factory.mktemp("exported"))


def test_an_export_is_the_file_of_a_stage(exported: Path, tmp_path: Path) -> None:
    made = subject("cnn")
    to_onnx(made.model, made.task, made.batch, tmp_path / "model.onnx")
    pack(tmp_path / "model.onnx")
    assert exported.read_bytes() == (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize("name", [one for one in SETTINGS if one not in of_models()])
def test_a_quantised_file_is_that_of_the_stage(name: str, exported: Path, tmp_path: Path) -> None:
    images, target = subject("cnn").batch["image"], tmp_path / "found.onnx"
    kind = name.removeprefix("quantize.")
    found, why = attempt(lambda: limbeck.quantize_onnx(exported, target, images, method=kind))
    calibration = [{"image": images.numpy()}]
    expected, refused = attempt(
        lambda: method(name).write(exported, tmp_path / "expected.onnx", calibration=calibration)
    )
    assert why == refused
    if found is None:
        assert not target.exists()
        return
    size = pack(tmp_path / "expected.onnx").bytes_after
    assert target.read_bytes() == (tmp_path / "expected.onnx").read_bytes()
    assert found.bytes_after == size
    assert found.quantized == expected.quantized


def test_a_quantised_file_that_differs_too_much_is_refused(exported: Path, tmp_path: Path) -> None:
    images = subject("cnn").batch["image"]
    with pytest.raises(InputError, match="a file by int8_static that differs"):
        limbeck.quantize_onnx(exported, tmp_path / "q.onnx", images, tolerance=1e-6)
    assert not [*tmp_path.iterdir()]


class Dictionary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"logits": self.body(left + right), "features": left}


def test_an_export_names_its_inputs_and_loads_as_a_student(tmp_path: Path) -> None:
    one, two = torch.rand(5, 4), torch.rand(5, 4)
    path = limbeck.export(Dictionary(), (one, two), tmp_path)
    assert OnnxPredictor(path).inputs == ("left", "right")
    by_name = limbeck.export(nn.Linear(4, 3), {"features": one}, tmp_path, classes=("a", "b", "c"))
    assert OnnxPredictor(by_name).inputs == ("features",)
    assert onnx.load(by_name).metadata_props[-1].value == '["a", "b", "c"]'
    prepare = ImagePreprocess((4, 4), 1, 255.0, (0.5,), (0.5,), classes=("no", "yes"))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    limbeck.export(net, torch.rand(2, 1, 4, 4), tmp_path / "student", preprocess=prepare)
    student = limbeck.load_student(tmp_path / "student")
    assert student.predict(np.zeros((8, 8), np.uint8)).label in ("no", "yes")


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (torch.rand(2, 5), "got 'input [2, 5]'; allowed: a batch that the model runs. It raised"),
        (torch.empty(0, 4), "at least one sample"),
        (torch.tensor(1.0), "at least one sample"),
        ({}, "got 'dict'"),
        ({"labels": torch.zeros(2)}, "at least one sample"),
        ({"x": torch.rand(2, 4), "labels": torch.zeros(3)}, "'labels': '[3]'"),
        ([torch.rand(2, 4), None], "'labels': 'NoneType'"),
        ([torch.rand(2, 4)] * 3, "input_1 [2, 4], input_2 [2, 4]'"),
        ("text", "got 'str'"),
        (None, "got 'NoneType'"),
        (torch.full((2, 4), torch.nan), "NaN or infinity in input"),
    ],
)
def test_a_bad_example_is_refused_everywhere(example: Any, words: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    calls = (
        lambda: limbeck.prune(net, example, ratio=0.5),
        lambda: limbeck.factorize(net, example, energy=0.9),
        lambda: limbeck.quantize(net, example),
        lambda: limbeck.export(net, example, tmp_path / "out"),
    )
    for call in calls:
        with pytest.raises(InputError, match=r"^example: ") as caught:
            call()
        assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_without_logits_is_refused() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(InputError, match="model: got 'tuple'; allowed: a tensor, or an output"):
        limbeck.quantize(Pair(), torch.rand(2, 4))


def test_settings_and_methods_are_those_of_a_recipe() -> None:
    net, example = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.rand(2, 4)
    for call, words in (
        (lambda: limbeck.prune(net, example, ratios=0.5), 'did you mean "ratio"'),
        (lambda: limbeck.factorize(net, example), "factorize: got 'none'; allowed: exactly one of"),
        (lambda: limbeck.prune(net, example, method="chanels"), 'did you mean "channels"'),
        (lambda: limbeck.prune(net, example, method="movement", sparsity=0.5), "finetune"),
        (lambda: limbeck.quantize(net, example, method="int8_static"), "limbeck.quantize_onnx"),
        (lambda: limbeck.quantize_onnx("a", "b", example, method="uniform"), "limbeck.quantize("),
        (lambda: limbeck.prune(net, example, method="channels", ratio=0.5, importance="taylor"),
         "example: got ['input']; allowed: a batch with labels"),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            call()
        assert words in str(caught.value)
