"""Models are built from a spec; errors state the key, the allowed values and the fix."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

import limbeck.models.sources
from limbeck.errors import InputError
from limbeck.models.build import build
from limbeck.models.source import Source
from limbeck.models.spec import SOURCES, ModelSpec, names


def _build(source: str = "limbeck", name: str = "digits_cnn", **settings: Any) -> nn.Module:
    return build(ModelSpec(source=source, name=name, **settings), classes=10, channels=1)


def test_every_file_of_the_folder_is_a_source() -> None:
    files = Path(limbeck.models.sources.__path__[0]).glob("[!_]*.py")
    assert SOURCES.names() == sorted(file.stem for file in files)
    assert all(isinstance(SOURCES.load(name), Source) for name in SOURCES.names())


def test_names_of_reference_nets_import_no_torch() -> None:
    import subprocess

    code = "import sys; from limbeck.models.spec import names; print(names('limbeck'))"
    code += "; assert not {'torch', 'timm', 'transformers'} & set(sys.modules)"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert names("python") == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "tim", "name": "x"}, 'did you mean "timm"?'),
        ({"source": "limbeck"}, "name: field required"),
        ({"source": "limbeck", "name": "x", "path": "y"}, "transformers only"),
        ({"source": "transformers", "path": "y", "hidden_size": 3}, "one of them"),
    ],
)
def test_invalid_specs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelSpec(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "digit_cnn"}, 'did you mean "digits_cnn" or'),
        ({"widht": 3}, 'did you mean "width"?'),
        ({"classes": 3}, "it follows from the data"),
        ({"width": "eight"}, "arguments that the model takes"),
        ({"name": "resnet20", "shortcut": "zero"}, "allowed: conv, pad"),
    ],
)
def test_invalid_arguments(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        _build(**settings)
    assert message in str(caught.value)


def test_all_wrong_arguments_are_reported_at_once() -> None:
    with pytest.raises(InputError) as caught:
        _build(widht=3, classes=4, depth=2)
    assert len(caught.value.problems) == 3


def _save(path: Path, model: nn.Module, **changes: torch.Tensor | None) -> None:
    tensors = {**model.state_dict(), **changes}
    save_file({name: value for name, value in tensors.items() if value is not None}, path)


def test_weights_of_a_file_or_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _build()
    _save(tmp_path / "model.safetensors", model)
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path.parent))
    for path in (tmp_path, tmp_path / "model.safetensors", tmp_path.name):
        loaded = _build(checkpoint=str(path))
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)


def test_counters_of_batches_may_be_absent(tmp_path: Path) -> None:
    counters = {name: None for name in _build().state_dict() if name.endswith("tracked")}
    assert len(counters) == 3
    _save(tmp_path / "w.safetensors", _build(), **counters)
    _build(checkpoint=str(tmp_path / "w.safetensors"))


def test_everything_that_differs_is_named(tmp_path: Path) -> None:
    changes = {
        "linear.bias": None,
        "more": torch.zeros(1),
        "block1.0.weight": torch.zeros(8, 3, 3, 3),
    }
    _save(tmp_path / "w.safetensors", _build(), **changes)
    with pytest.raises(InputError) as caught:
        _build(checkpoint=str(tmp_path / "w.safetensors"))
    missing, extra, shape = map(str, caught.value.problems)
    assert "nothing for linear.bias" in missing
    assert "also more" in extra
    assert "block1.0.weight of shape (8, 3, 3, 3)" in shape


def test_another_number_of_classes_is_reported(tmp_path: Path) -> None:
    other = build(ModelSpec(source="limbeck", name="digits_cnn"), classes=100, channels=1)
    _save(tmp_path / "w.safetensors", other)
    with pytest.raises(InputError, match=r"weights for 100 classes.*the 10 classes of the data"):
        _build(checkpoint=str(tmp_path / "w.safetensors"))


def test_files_without_weights(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(InputError, match="a whole safetensors file"):
        _build(checkpoint=str(tmp_path / "w.safetensors"))
    with pytest.raises(InputError, match=r"No such file.*LIMBECK_DATA"):
        _build(checkpoint="nowhere.safetensors")


SOURCE = """
from torch import nn

def build(classes, hidden=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Linear(hidden, classes))

def no_module(classes):
    return classes

def broken():
    raise OSError("the disk is on fire")
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(SOURCE)
    return str(tmp_path / "mine.py")


def test_a_user_model(mine: str) -> None:
    model = _build("python", f"{mine}:build", hidden=5)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("build", {"hiden": 3}, 'did you mean "hidden"?'),
        ("biuld", {}, 'did you mean "build"?'),
        ("no_module", {}, "returns a torch.nn.Module"),
        ("broken", {}, "the disk is on fire"),
    ],
)
def test_invalid_user_models(mine: str, name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        _build("python", f"{mine}:{name}", **settings)
    assert message in str(caught.value)


def test_a_user_module_is_imported() -> None:
    model = _build("python", "torch.nn:Linear", in_features=4, out_features=10)
    assert isinstance(model, nn.Linear)
