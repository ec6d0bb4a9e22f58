"""Common checkpoint formats load; others are refused with the fix."""

from __future__ import annotations

import argparse
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.models.build import build
from limbeck.models.spec import ModelSpec


def _net(classes: int = 4, notes: list[str] | None = None, **settings: Any) -> Any:
    spec = ModelSpec(source="limbeck", name="tabular_mlp", width=5, **settings)
    return build(spec, classes=classes, table_features=3, notes=notes)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(1)
    return _net()


def _equal(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


def _prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


FORMS = {
    "bare.pt": lambda state: state,
    "nested.pth": lambda state: {"epoch": 3, "model_state_dict": state, "best": np.float64(0.5)},
    "trainer.th": lambda state: {
        "state_dict": _prefixed(state, "module."),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(5, 3)}}, "param_groups": [{"lr": 1.0}]},
        "args": argparse.Namespace(width=5),
    },
    "lightning.ckpt": lambda state: {
        "state_dict": {**_prefixed(state, "model."), "criterion.weight": torch.ones(4)},
        "hyper_parameters": {"width": 5},
    },
    "compiled.bin": lambda state: {"net": _prefixed(state, "_orig_mod.module.")},
    "ema.pt": lambda state: {"ema": _prefixed(state, "module."), "updates": 7},
}


@pytest.mark.parametrize("form", FORMS)
def test_common_formats_load(tmp_path: Path, net: nn.Module, form: str) -> None:
    torch.save(FORMS[form](net.state_dict()), tmp_path / form)
    assert _equal(_net(checkpoint=str(tmp_path / form)), net)


def test_tensors_that_are_not_loaded_are_listed(tmp_path: Path, net: nn.Module) -> None:
    content = FORMS["lightning.ckpt"]({k: v.half() for k, v in net.state_dict().items()})
    torch.save(content, tmp_path / "a.ckpt")
    notes: list[str] = []
    built = _net(notes=notes, checkpoint=str(tmp_path / "a.ckpt"))
    assert {one.dtype for one in built.parameters()} == {torch.float32}
    assert "float16 are loaded as float32" in notes[0]
    assert "state_dict.model." in notes[1]
    assert "not loaded: state_dict (1 tensors)" in notes[2]


def test_an_old_file_without_an_archive(tmp_path: Path, net: nn.Module) -> None:
    torch.save(net.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert _equal(_net(checkpoint=str(tmp_path / "old.pth")), net)


def test_one_of_two_sets_of_weights_is_chosen(tmp_path: Path, net: nn.Module) -> None:
    other = _net().state_dict()
    torch.save({"model": net.state_dict(), "model_ema": other}, tmp_path / "two.pt")
    path = str(tmp_path / "two.pt")
    with pytest.raises(InputError, match=r"2 sets of weights.*loading: \{prefix:"):
        _net(checkpoint=path)
    assert _equal(_net(checkpoint=path, loading={"prefix": "model"}), net)
    torch.save({"model": net.state_dict(), "model_ema": net.state_dict()}, tmp_path / "two.pt")
    assert _equal(_net(checkpoint=path), net)


class Harmful:
    def __reduce__(self) -> Any:
        return (os.system, ("touch /tmp/limbeck-was-executed",))


@pytest.mark.parametrize("content", [Harmful(), nn.Linear(2, 2), {"state_dict": nn.Linear(2, 2)}])
def test_pickled_objects_are_refused_and_not_executed(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "o.pt")
    with pytest.raises(InputError, match=r"pickled objects.*torch\.save"):
        _net(checkpoint=str(tmp_path / "o.pt"))
    assert not Path("/tmp/limbeck-was-executed").exists()


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            _net(checkpoint=str(tmp_path / name))

    (tmp_path / "text.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused("text.pt", r"pointer of Git LFS.*git lfs pull")
    (tmp_path / "page.pt").write_text("<html>404</html>")
    refused("page.pt", "neither safetensors nor a PyTorch checkpoint")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "script.pt"))
    refused("script.pt", r"TorchScript.*torch\.jit\.load")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10_000_000))
    refused("bomb.pt", "compressed")
    os.mkfifo(tmp_path / "pipe.pt")
    refused("pipe.pt", "not a regular file")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    refused("zero.safetensors", "not a regular file")
    whole = tmp_path / "cut.pt"
    torch.save(_net().state_dict(), whole)
    whole.write_bytes(whole.read_bytes()[:-200])
    refused("cut.pt", "damaged")


def test_renamed_tensors_get_a_suggestion_that_works(tmp_path: Path, net: nn.Module) -> None:
    state = {
        name.replace("blocks.", "layers.").replace("linear.", "fc."): tensor
        for name, tensor in net.state_dict().items()
    }
    save_file(state, tmp_path / "r.safetensors")
    path = str(tmp_path / "r.safetensors")
    with pytest.raises(InputError) as caught:
        _net(checkpoint=path)
    message = str(caught.value)
    assert "fc: linear" in message
    assert "layers: blocks" in message
    rename = {"fc": "linear", "layers": "blocks"}
    assert _equal(_net(checkpoint=path, loading={"rename": rename}), net)


def test_a_fresh_head_is_stated(tmp_path: Path, net: nn.Module) -> None:
    save_file(net.state_dict(), tmp_path / "four.safetensors")
    path = str(tmp_path / "four.safetensors")
    with pytest.raises(InputError, match=r"4 classes.*loading: \{head: fresh\}"):
        _net(7, checkpoint=path)
    notes: list[str] = []
    fresh = _net(7, notes=notes, checkpoint=path, loading={"head": "fresh"})
    assert torch.equal(fresh.blocks[0][0].weight, net.blocks[0][0].weight)
    assert fresh.linear.weight.shape == (7, 5)
    assert any("freshly initialised: linear.bias, linear.weight" in note for note in notes)
    # The same number of classes: the head is fresh all the same.
    same = _net(4, checkpoint=path, loading={"head": "fresh"})
    assert torch.equal(same.blocks[0][0].weight, net.blocks[0][0].weight)
    assert not torch.equal(same.linear.weight, net.linear.weight)


def test_a_body_without_a_head_needs_a_stated_head(tmp_path: Path, net: nn.Module) -> None:
    body = {name: one for name, one in net.state_dict().items() if "linear" not in name}
    save_file(body, tmp_path / "body.safetensors")
    path = str(tmp_path / "body.safetensors")
    with pytest.raises(InputError, match=r"nothing for linear\.weight"):
        _net(checkpoint=path)
    assert _equal(_net(checkpoint=path, loading={"head": "fresh"}).blocks, net.blocks)
    assert _equal(_net(checkpoint=path, loading={"skip": ["linear"]}).blocks, net.blocks)


TIED = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first = nn.Linear(4, classes, bias=False)
        self.second = nn.Linear(4, classes, bias=False)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("steps", torch.tensor(3))

def tied(classes):
    return Tied(classes)

def untied(classes):
    net = Tied(classes)
    net.second = nn.Linear(4, classes, bias=False)
    return net

def half(classes):
    torch.set_default_dtype(torch.float64)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))
    net[0].half()
    net[2].bfloat16()
    return net

def lazy(classes):
    return nn.LazyLinear(classes)

def meta(classes):
    return nn.Linear(4, classes, device="meta")
"""


@pytest.fixture
def user(tmp_path: Path) -> str:
    (tmp_path / "user.py").write_text(TIED)
    return str(tmp_path / "user.py")


def _user(file: str, name: str, **settings: Any) -> Any:
    return build(ModelSpec(source="python", name=f"{file}:{name}", **settings), classes=4)


def test_shared_tensors_of_save_model(tmp_path: Path, user: str) -> None:
    made = _user(user, "tied")
    save_model(made, str(tmp_path / "m.safetensors"))
    path = str(tmp_path / "m.safetensors")
    assert _equal(_user(user, "tied", checkpoint=path), made)
    assert _equal(_user(user, "untied", checkpoint=path), made)
    state = {**made.state_dict(), "second.weight": torch.zeros(4, 4)}
    torch.save(state, tmp_path / "two.pt")
    with pytest.raises(InputError, match="one tensor in the model"):
        _user(user, "tied", checkpoint=str(tmp_path / "two.pt"))


def test_scalars_and_kinds_of_numbers(tmp_path: Path, user: str) -> None:
    made = _user(user, "tied")
    state = made.state_dict()
    torch.save({**state, "scale": torch.tensor(2.0)}, tmp_path / "s.pt")
    assert _user(user, "tied", checkpoint=str(tmp_path / "s.pt")).scale.tolist() == [2.0]

    def refused(message: str, **changes: Tensor) -> None:
        torch.save({**state, **changes}, tmp_path / "k.pt")
        with pytest.raises(InputError, match=message):
            _user(user, "tied", checkpoint=str(tmp_path / "k.pt"))

    refused("int8.*quantised", scale=torch.ones(1, dtype=torch.int8))
    refused("float8", scale=torch.ones(1).to(torch.float8_e4m3fn))
    refused("NaN or infinity", scale=torch.full((1,), 1e300, dtype=torch.float64))


def test_invalid_values_are_refused(tmp_path: Path) -> None:
    spec = ModelSpec(source="limbeck", name="digits_cnn", width=2)
    state = build(spec, classes=3, channels=1).state_dict()
    [mean] = [name for name in state if name.endswith("running_mean")][:1]
    variance = mean.replace("mean", "var")

    def refused(message: str, name: str, values: Tensor) -> None:
        torch.save({**state, name: values}, tmp_path / "b.pt")
        with pytest.raises(InputError, match=message):
            build(
                spec.model_copy(update={"checkpoint": str(tmp_path / "b.pt")}),
                classes=3,
                channels=1,
            )

    refused("negative variances in .*running_var", variance, -state[variance])
    refused("NaN or infinity in .*running_mean", mean, state[mean] * torch.nan)
    refused("meta device", mean, state[mean].to("meta"))


def test_builders_of_other_precisions(user: str) -> None:
    made = _user(user, "half")
    kinds = {one.dtype for one in made.state_dict().values() if one.is_floating_point()}
    assert kinds == {torch.float32}
    assert torch.get_default_dtype() == torch.float32
    assert made(torch.zeros(2, 4)).shape == (2, 4)


@pytest.mark.parametrize(("name", "message"), [("lazy", "lazy modules"), ("meta", "meta device")])
def test_builders_without_values_are_refused(user: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _user(user, name)


def test_shards_with_an_index(tmp_path: Path, net: nn.Module) -> None:
    names = list(net.state_dict())
    parts = {"a.safetensors": names[:2], "b.safetensors": names[2:]}
    for file, part in parts.items():
        save_file({name: net.state_dict()[name] for name in part}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    places = {name: file for file, part in parts.items() for name in part}
    index.write_text(json.dumps({"weight_map": places}))
    assert _equal(_net(checkpoint=str(tmp_path)), net)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"1 of 2 shards missing.*b\.safetensors"):
        _net(checkpoint=str(index))
    for wrong in ({"weight_map": {"x": "../b.safetensors"}}, {"weight_map": []}, [], {"a": 1}):
        index.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match="index"):
            _net(checkpoint=str(index))


def test_files_of_torchvision_and_timm(tmp_path: Path) -> None:
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    # DenseNet's published file has the names of 2017.
    settings = {"growth_rate": 4, "block_config": (1, 1, 1, 1), "num_init_features": 8}
    made = torchvision.models.DenseNet(**settings)
    from limbeck.models.sources import torchvision as source
    from limbeck.models.weights import load_weights

    old = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2"): one
        for name, one in made.state_dict().items()
    }
    torch.save(old, tmp_path / "densenet.pth")
    again = torchvision.models.DenseNet(**settings)
    load_weights(again, str(tmp_path / "densenet.pth"), classes=1000, convert=source.convert)
    assert _equal(again, made)
    # A vision transformer of the original DeiT repository, for 1000 classes, under timm's own tag.
    tag = "vit_tiny_patch16_224.augreg_in21k"
    small = {"img_size": 32, "depth": 1, "embed_dim": 12, "num_heads": 3}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=9, **small)
    torch.save({"model": vit.state_dict()}, tmp_path / "vit.pth")
    spec = ModelSpec(source="timm", name=tag, checkpoint=str(tmp_path / "vit.pth"), **small)
    assert _equal(build(spec, classes=9, channels=3), vit)


OLD_NORMS = """
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm
from torch.nn.utils.parametrizations import weight_norm as new_weight_norm

def build(classes):
    return nn.Sequential(
        nn.Flatten(), weight_norm(nn.Linear(12, 8), dim=0), nn.ReLU(),
        spectral_norm(nn.Linear(8, 8)), new_weight_norm(nn.Linear(8, classes)),
    )
"""


def test_old_weight_norm_and_spectral_norm_copy_train_export_and_load(tmp_path: Path) -> None:
    import copy

    from limbeck.compress.materialize import materialize
    from limbeck.export.onnx import to_onnx
    from limbeck.models.build import architecture
    from limbeck.tasks.image_classification import ImageClassification

    (tmp_path / "norms.py").write_text(OLD_NORMS)
    spec = ModelSpec(source="python", name=f"{tmp_path / 'norms.py'}:build")
    scope: dict[str, Any] = {}
    exec(OLD_NORMS, scope)
    torch.manual_seed(2)
    original = scope["build"](3).eval()
    torch.manual_seed(2)
    model = build(spec, classes=3)
    batch = {"image": torch.randn(4, 3, 2, 2), "labels": torch.tensor([0, 1, 2, 0])}
    torch.testing.assert_close(model.eval()(batch["image"]), original(batch["image"]))
    model.train()(batch["image"]).sum().backward()
    copied = copy.deepcopy(model).eval()
    to_onnx(copied, ImageClassification(("a", "b", "c")), batch, tmp_path / "m.onnx")
    expected = copied(batch["image"])
    materialize(copied)
    scope = {}
    exec(architecture(spec, classes=3), scope)
    plain = scope["build"]()
    plain.load_state_dict(copied.state_dict())
    torch.testing.assert_close(plain.eval()(batch["image"]), expected)


def test_a_fresh_head_of_a_transformers_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tiny["intermediate_size"] = 16
    made = build(ModelSpec(source="transformers", name="bert", **tiny), classes=3, vocab_size=20)
    made.half().save_pretrained(tmp_path)
    spec = ModelSpec(source="transformers", path=str(tmp_path))
    same = build(spec, classes=3, vocab_size=20)
    assert {one.dtype for one in same.parameters()} == {torch.float32}
    with pytest.raises(InputError, match="head: fresh"):
        build(spec, classes=5, vocab_size=20)
    spec = spec.model_copy(update={"loading": spec.loading.model_copy(update={"head": "fresh"})})
    fresh = build(spec, classes=5, vocab_size=20)
    assert fresh.classifier.weight.shape == (5, 16)
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(fresh.state_dict()[query], same.state_dict()[query])


def test_keys_are_mapped_by_patterns(tmp_path: Path, net: nn.Module) -> None:
    def renamed(name: str) -> str:
        return "encoder." + name.replace("blocks.", "stage_").replace("linear.", "head.fc.")

    state = {renamed(name): tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": _prefixed(state, "module.")}, tmp_path / "mapped.pt")
    path = str(tmp_path / "mapped.pt")
    keys = {r"^encoder\.(.*)": r"\1", r"stage_(\d+)": r"blocks.\1", r"\.?head\.fc\.": ".linear."}
    assert _equal(_net(checkpoint=path, loading={"keys": keys}), net)
    with pytest.raises(InputError):
        _net(checkpoint=path, loading={"keys": {r"^coder\.(.*)": r"\1"}})


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"^(a": "b"}, "unterminated subpattern"), ({"^a": r"\1"}, "invalid group reference")],
)
def test_patterns_are_checked_before_any_file_is_read(keys: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s)keys.*{message}"):
        _net(checkpoint="no-such-file.pt", loading={"keys": keys})


def test_a_partial_checkpoint_lists_loaded_missing_and_unexpected(
    tmp_path: Path, net: nn.Module
) -> None:
    state = dict(net.state_dict())
    names = list(state)
    kept = {name: one for name, one in state.items() if not name.startswith("blocks.1")}
    changed = {"linear.weight": torch.ones(9, 5), "projector.weight": torch.ones(2, 2)}
    torch.save({"model": kept | changed}, tmp_path / "partial.pt")
    path = str(tmp_path / "partial.pt")
    with pytest.raises(InputError) as caught:
        _net(checkpoint=path)
    text = str(caught.value)
    assert "nothing for blocks.1" in text
    assert "also projector.weight" in text
    assert "weights for 9 classes" in text
    notes: list[str] = []
    torch.manual_seed(5)
    model = _net(notes=notes, checkpoint=path, loading={"partial": True})
    torch.manual_seed(5)
    fresh = _net()
    for name, tensor in model.state_dict().items():
        loaded = name in kept and name != "linear.weight"
        assert torch.equal(tensor, (state if loaded else fresh.state_dict())[name]), name
    listed = "\n".join(notes)
    count = len([name for name in kept if name != "linear.weight"])
    assert f"loaded {count} of {len(names)} tensors: blocks.0.0 (" in listed
    assert "missing in the file, freshly initialised: blocks.1" in listed
    assert "of another shape in the file, freshly initialised: linear.weight" in listed
    assert "unexpected in the file, not loaded: projector.weight" in listed
    assert "blocks.1.0.weight" in model.fresh_parameters
    whole = tmp_path / "whole.pt"
    torch.save(state, whole)
    assert not hasattr(_net(checkpoint=str(whole), loading={"partial": True}), "fresh_parameters")


def test_a_partial_checkpoint_without_any_tensor_of_the_model_is_refused(tmp_path: Path) -> None:
    torch.save({"other.weight": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"(?s)nothing for .*In the file: other.weight"):
        _net(checkpoint=str(tmp_path / "other.pt"), loading={"partial": True})


def test_of_model_and_average_one_is_chosen_in_a_partial_load(
    tmp_path: Path, net: nn.Module
) -> None:
    average = {name: tensor + 1 for name, tensor in net.state_dict().items()}
    content = {"state_dict": dict(net.state_dict()), "state_dict_ema": average}
    torch.save(content, tmp_path / "both.pt")
    path, loading = str(tmp_path / "both.pt"), {"partial": True}
    with pytest.raises(
        InputError, match=r"2 sets of weights, under 'state_dict\.', 'state_dict_ema\.'"
    ):
        _net(checkpoint=path, loading=loading)
    model = _net(checkpoint=path, loading=loading | {"prefix": "state_dict_ema"})
    assert torch.equal(model.linear.bias, net.linear.bias + 1)
