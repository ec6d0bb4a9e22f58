from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from four_nets import Subject, subject
from pydantic import ValidationError
from torch import Tensor, nn

from limbeck.compress.drop_layers import blocks, candidates
from limbeck.compress.method import CalibrationContext, CompressError, apply
from limbeck.compress.pruners.layers import Layers
from limbeck.errors import InputError
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor


class Block(nn.Module):
    def __init__(self, strength: float) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12))
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        return x + self.strength * self.inner(x)


STRENGTHS = [1.0, 0.001, 2.0, 0.0, 0.5]


class Deep(nn.Module):
    """Residual blocks of known weight, in a sequence, and a list that narrows at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(192, 12)
        self.deep = nn.Sequential(*(Block(strength) for strength in STRENGTHS))
        self.tail = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 4)])

    def forward(self, image: Tensor) -> Tensor:
        x = self.deep(self.first(image.flatten(1)))
        for layer in self.tail:
            x = layer(x)
        return x


def deep() -> Subject:
    torch.manual_seed(0)
    return replace(subject("cnn"), model=Deep().eval())


def faithful(made: Subject) -> CalibrationContext:
    """Validate by the distance of the logits from those of the whole model."""
    wanted = made.logits().clone()

    def validate(model: nn.Module) -> float:
        return -float((made.logits(model) - wanted).abs().max())

    return replace(made.work, validate=validate)


def rebuilt(model: nn.Module, fresh: nn.Module, changes: list) -> nn.Module:
    apply(fresh, json.loads(json.dumps(changes)))
    fresh.load_state_dict(model.state_dict())
    return fresh


def test_candidates_keep_the_shape_and_hold_weights():
    made = deep()
    found = candidates(made.model, made.work)
    assert blocks(made.model, found) == [*(f"deep.{place}" for place in range(5)), "tail.0"]
    assert "deep.0.inner.0" in found
    assert not {"tail.1", "deep.0.inner.1", "first"} & set(found)


def test_the_least_harmful_go_first():
    made = deep()
    changed = Layers(count=3).transform(made.model, faithful(made))
    assert changed.change == {"kind": "drop", "layers": ["deep.1", "deep.3", "deep.4"]}
    assert isinstance(made.model.deep[3], nn.Identity)


def test_ties_go_by_the_loss():
    made = deep()
    work = replace(made.work, validate=lambda model: 0.0)
    losses = {}
    for path in ["deep.0", "deep.1", "deep.2", "deep.3", "deep.4", "tail.0"]:
        other = deep()
        Layers(drop=[path]).transform(other.model, work)
        with torch.no_grad():
            losses[path] = float(made.work.loss(other.model, made.batch))
    changed = Layers(count=1).transform(made.model, work)
    assert changed.change["layers"] == [min(losses, key=losses.__getitem__)]


def test_last_and_uniform():
    made = deep()
    assert Layers(count=2, by="last").transform(made.model, made.work).change["layers"] == [
        "deep.4",
        "tail.0",
    ]
    made = deep()
    assert Layers(count=3, by="uniform").transform(made.model, made.work).change["layers"] == [
        "deep.1",
        "deep.3",
        "tail.0",
    ]


@pytest.mark.parametrize("name", ["bert", "vit", "cnn"])
def test_a_dropped_layer_is_one_that_gives_back_its_input(name):
    made, skipped = subject(name), subject(name)
    path = {"bert": "bert.encoder.layer.0", "vit": "blocks.0", "cnn": "deep.0"}[name]

    def back(layer: nn.Module, args: tuple, out: object) -> object:
        return (args[0], *out[1:]) if isinstance(out, tuple) else args[0]

    skipped.model.get_submodule(path).register_forward_hook(back)
    changed = Layers(drop=[0]).transform(made.model, made.work)
    assert changed.change["layers"] == [path]
    assert torch.equal(made.logits(), skipped.logits())
    fresh = rebuilt(made.model, subject(name).model, [changed.change])
    assert torch.equal(made.logits(fresh), made.logits())


def test_a_transformers_model_counts_its_layers_and_leaves_the_original_configuration():
    made = subject("bert")
    config = made.model.config
    Layers(count=1, by="last").transform(made.model, made.work)
    assert config.num_hidden_layers == 2
    assert made.model.config.num_hidden_layers == 1
    assert made.model.bert.encoder.config is made.model.config
    assert len(made.model.bert.encoder.layer) == 1


def test_lists_shorten_and_later_layers_move_up():
    made = subject("bert")
    later = made.model.bert.encoder.layer[1]
    changed = Layers(drop=["*.layer.0"]).transform(made.model, made.work)
    assert made.model.bert.encoder.layer[0] is later
    assert "1 layers removed (bert.encoder.layer.0), 5,908 to 3,684 parameters" in changed.what


def test_drop_train_and_drop_again():
    made = deep()
    changes = [Layers(drop=["deep.3", "tail.0"]).transform(made.model, made.work).change]
    optimizer = torch.optim.SGD(made.model.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        made.work.loss(made.model, made.batch).backward()
        optimizer.step()
    changes.append(Layers(count=1).transform(made.model, made.work).change)
    fresh = rebuilt(made.model, Deep(), changes)
    assert torch.equal(made.logits(fresh), made.logits())


def test_nested_lists_shorten_from_within():
    def tree() -> nn.Module:
        rows = (nn.ModuleList([nn.Linear(1, 2), nn.Linear(2, 3)]) for _ in range(3))
        return nn.ModuleList(rows)

    model = tree()
    apply(model, [{"kind": "drop", "layers": ["0", "1.0", "2.1"]}])
    assert [[layer.in_features for layer in row] for row in model] == [[2], [1]]


def test_the_exported_file_has_the_logits_of_the_model(tmp_path):
    made = subject("bert")
    Layers(count=1).transform(made.model, made.work)
    to_onnx(made.model, made.task, made.batch, tmp_path / "model.onnx")
    found = OnnxPredictor(tmp_path / "model.onnx", threads=1).predict(made.batch)["logits"]
    assert torch.allclose(torch.from_numpy(found), made.logits(), atol=1e-5)


def test_bad_settings_and_models_without_layers():
    for wrong in (
        {},
        {"drop": [0], "count": 1},
        {"count": 0},
        {"drop": []},
        {"drop": [0], "by": "last"},
    ):
        with pytest.raises(ValidationError):
            Layers(**wrong)
    made = subject("bert")
    with pytest.raises(InputError, match=r"drop: got 2; allowed: 0 to 1"):
        Layers(drop=[2]).check(made.model, made.work)
    with pytest.raises(InputError, match=r"did you mean .bert.encoder.layer.1"):
        Layers(drop=["bert.encoder.layer1"]).check(made.model, made.work)
    with pytest.raises(InputError, match=r"count: got 2; allowed: at most 1"):
        Layers(count=2).check(made.model, made.work)
    made = subject("lstm")
    with pytest.raises(CompressError, match="no layer can be removed"):
        Layers(count=1).check(made.model, made.work)
