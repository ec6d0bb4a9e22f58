"""Quantisers in whole models: their structure, what they leave alone, and training with them."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from four_nets import NETS, subject
from pydantic import ValidationError
from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.changes.masks import Mask
from limbeck.compress.method import CompressError, apply
from limbeck.compress.quantizers.binary import Binary
from limbeck.compress.quantizers.ternary import Ternary
from limbeck.compress.quantizers.uniform import Uniform
from limbeck.errors import InputError
from limbeck.export.quantized import deploy, integers

VARIANTS = {
    "8 bits": Uniform(embeddings=True),
    "4 bits learned": Uniform(bits=4, activation_bits=4, step="learned", first_last_bits=None),
    "3 bits affine": Uniform(bits=3, symmetric=False, step="learned", symmetric_activations=True),
    "powers of two": Uniform(bits=5, activation_bits=6, power_of_two=True, per_channel=False),
    "ternary": Ternary(threshold="learned", activation_bits=None),
    "binary": Binary(),
}


def quantised(net, variant):
    one = subject(net)
    return one, variant.transform(one.model, one.work)


def moved(before, after):
    return float((before - after).abs().max() / before.abs().max())


@pytest.mark.parametrize("net", NETS)
def test_the_structure_can_be_built_again(net):
    one = subject(net)
    dense = one.logits()
    for name, variant in VARIANTS.items():
        model, fresh = copy.deepcopy(one.model), copy.deepcopy(one.model)
        variant.check(model, one.work)
        changed = variant.transform(model, one.work)
        after = one.logits(model)
        assert not torch.equal(after, dense), name
        apply(fresh, [json.loads(json.dumps(changed.change))])
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(one.logits(fresh), after), name
        assert torch.equal(one.logits(deploy(fresh)), after), name
        # What happened to the others did not reach this one.
        assert torch.equal(one.logits(copy.deepcopy(model)), after), name
        assert torch.equal(one.logits(model), after), name
    assert torch.equal(one.logits(), dense)


@pytest.mark.parametrize("net", NETS)
def test_paths_stay_and_weights_take_few_values(net):
    paths = set(dict(subject(net).model.named_modules()))
    one, changed = quantised(net, Uniform(bits=3, activation_bits=4, first_last_bits=None))
    assert paths <= set(dict(one.model.named_modules()))
    assert changed.change["layers"]
    for path in changed.change["layers"]:
        for row in one.model.get_submodule(path).weight:
            assert row.unique().numel() <= 8


@pytest.mark.parametrize("net", NETS)
def test_more_bits_change_the_logits_less(net):
    dense = subject(net).logits()
    found = []
    for bits in (8, 4, 2):
        variant = Uniform(bits=bits, activation_bits=None, first_last_bits=None)
        found.append(moved(dense, quantised(net, variant)[0].logits()))
    assert found[0] < 0.05
    assert found == sorted(found)


def test_batch_norms_are_folded_without_changing_logits():
    one = subject("cnn")
    before = one.logits()
    # Quantising nothing but one layer to 8 bits moves little; all four norms go nevertheless.
    changed = Uniform().transform(one.model, one.work)
    pairs = [["stem.0", "stem.1"], ["deep.0", "deep.1"], ["deep.3", "deep.4"], ["wide.0", "wide.1"]]
    assert sorted(changed.change["fold"]) == sorted(pairs)
    for path, norm in pairs:
        assert type(one.model.get_submodule(norm)) is nn.Identity
        weight = one.model.get_submodule(f"{path}.parametrizations.weight").original
        dense, old = (subject("cnn").model.get_submodule(at) for at in (path, norm))
        factor = old.weight / (old.running_var + old.eps).sqrt()
        torch.testing.assert_close(weight, dense.weight * factor.view(-1, 1, 1, 1))
        shift = (0 if dense.bias is None else dense.bias) - old.running_mean
        bias = one.model.get_submodule(f"{path}.parametrizations.bias").original
        torch.testing.assert_close(bias, shift * factor + old.bias)
    assert moved(before, one.logits()) < 0.02
    assert not Uniform(fold_batch_norm=False).transform(*_fresh("cnn")).change["fold"]


def _fresh(net):
    one = subject(net)
    return one.model, one.work


class Watched(nn.Module):
    """Reads what comes before its first batch norm; its second sees a sum."""

    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.second, self.norm2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.third, self.norm3 = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        y = self.first(x)
        x = self.norm2(self.second(self.norm1(y)) + y)
        return self.head(self.norm3(self.third(x)).mean((2, 3)))


def test_a_batch_norm_is_not_folded_if_logits_would_change():
    one = subject("cnn")
    torch.manual_seed(0)
    model = Watched()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
    before = one.logits(model)
    changed = Uniform().transform(model, one.work)
    assert changed.change["fold"] == [["third", "norm3"]]
    assert model.first.bias is None
    assert moved(before, one.logits(model)) < 0.05


def test_masks_go_first_and_zeros_stay_zero():
    for variant in (*VARIANTS.values(), Ternary()):
        one = subject("cnn")
        layers = [one.model.get_submodule(path) for path in ("stem.0", "deep.3", "hidden", "head")]
        masks = []
        for layer in layers:
            mask = torch.rand(layer.weight.shape) < 0.5
            parametrize.register_parametrization(layer, "weight", Mask(mask))
            masks.append(mask)
        variant.transform(one.model, one.work)
        whole = integers(one.model)
        for layer, mask in zip(layers, masks, strict=True):
            assert (layer.weight[~mask] == 0).all()
            assert (layer.weight[mask] != 0).any()
        counted = whole["hidden.weight"]
        zero = 0 if counted.zero_point is None else counted.zero_point.view(-1, 1)
        assert ((counted.values == zero) | masks[2]).all()


def test_a_quantised_model_can_be_quantised_again():
    one, first = quantised("cnn", Uniform(bits=8, step="learned"))
    second = Uniform(bits=4, activation_bits=None).transform(one.model, one.work)
    assert second.change["fold"] == []
    fresh = subject("cnn").model
    apply(fresh, [first.change, second.change])
    fresh.load_state_dict(one.model.state_dict())
    assert torch.equal(one.logits(fresh), one.logits())
    assert not any("input_quantizer" in name for name, _ in one.model.named_modules())
    assert parametrize.is_parametrized(one.model.hidden, "weight")
    assert not parametrize.is_parametrized(one.model.hidden, "bias")
    direct, _ = quantised("cnn", Uniform(bits=4, activation_bits=None))
    torch.testing.assert_close(one.logits(), direct.logits())


def test_factorised_layers_are_layers():
    one = subject("cnn")
    one.model.hidden = nn.Sequential(nn.Linear(16, 4, bias=False), nn.Linear(4, 24))
    changed = Uniform().transform(one.model, one.work)
    assert {"hidden.0", "hidden.1"} <= set(changed.change["layers"])


def test_first_and_last_layers_keep_their_bits():
    def values(variant):
        whole = integers(quantised("cnn", variant)[0].model)
        return [
            len(whole[f"{path}.weight"].values.unique()) for path in ("stem.0", "wide.0", "head")
        ]

    for variant, middle in ((Uniform(bits=2), 4), (Ternary(), 3), (Binary(), 2)):
        first, found, last = values(variant)
        assert found <= middle
        assert min(first, last) > 40
    first, found, last = values(Uniform(bits=2, first_last_bits=4))
    assert found <= 4 < min(first, last) <= max(first, last) <= 16
    assert max(values(Uniform(bits=2, first_last_bits=None))) <= 4


def test_what_is_left_in_float_is_listed():
    _, changed = quantised("lstm", Uniform())
    assert set(changed.change["layers"]) == {"hidden", "head"}
    notes = "\n".join(changed.notes)
    assert "quantisation of LSTM is not supported: lstm" in notes
    assert "`embeddings` is off: embedding" in notes
    _, changed = quantised("lstm", Uniform(embeddings=True, skip=["head"]))
    assert set(changed.change["layers"]) == {"embedding", "hidden"}
    assert "not selected: head" in "\n".join(changed.notes)


class Tied(nn.Module):
    """Two layers with one weight, one that is read from outside, and one that is quantised."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(6, 6), nn.Linear(6, 6)
        self.other.weight = self.one.weight
        self.read, self.head = nn.Linear(6, 6), nn.Linear(6, 4)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, image):
        x = self.other(self.one(image.flatten(1)[:, :6]))
        x = x + F.linear(x, self.read.weight, self.read.bias)
        return self.head(x + self.attention(x, x, x)[0])


def test_shared_weights_and_weights_read_from_outside():
    one, model = subject("cnn"), Tied()
    before = one.logits(model)
    changed = Uniform().transform(model, one.work)
    assert set(changed.change["layers"]) == {"read", "head"}
    assert changed.change["layers"]["read"]["input"] is None
    notes = "\n".join(changed.notes)
    assert "another module shares its weight: one, other" in notes
    assert "inputs kept in float: read" in notes
    assert "MultiheadAttention" in notes
    assert model.one.weight is model.other.weight
    assert moved(before, one.logits(model)) < 0.05


def test_the_fused_encoder_layer_rounds_its_inputs_in_evaluation_too():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    one = subject("cnn")
    model = nn.Sequential(nn.Flatten(2), nn.Linear(64, 8), layer, nn.Flatten(1), nn.Linear(24, 4))
    Uniform(bits=4, activation_bits=4, first_last_bits=None).transform(model, one.work)
    evaluated = one.logits(model)
    with torch.no_grad():
        for module in model.modules():
            module.training = not hasattr(module, "least")  # ranges must not follow
        trained = model(one.batch["image"])
    torch.testing.assert_close(evaluated, trained, rtol=1e-4, atol=1e-4)


def test_a_bias_that_cannot_be_counted_keeps_its_layer_from_integers():
    one = subject("cnn")
    with torch.no_grad():
        one.model.hidden.weight.mul_(1e-9)
        one.model.hidden.bias.fill_(1e3)
    changed = Uniform().transform(one.model, one.work)
    assert changed.change["layers"]["hidden"]["input"] is None
    assert "inputs kept in float: hidden" in changed.notes


def test_what_cannot_work_is_refused():
    one = subject("lstm")
    with pytest.raises(InputError, match="did you mean"):
        Uniform(layers=["hiden"]).check(one.model, one.work)
    with pytest.raises(CompressError, match="no layer"):
        Uniform(skip=["*"]).check(one.model, one.work)
    with pytest.raises(CompressError, match="shares its weight"):
        Uniform(layers=["one"]).check(Tied(), subject("cnn").work)
    empty = dataclasses.replace(one.work, batches=lambda: iter(()))
    with pytest.raises(InputError, match="no batch"):
        Uniform().check(one.model, empty)
    wild = subject("cnn")
    wild.batch["image"][0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        Uniform(fold_batch_norm=False).transform(wild.model, wild.work)
    for given in (
        {"bits": 9},
        {"bits": 1},
        {"activation_bits": 3},
        {"first_last_bits": 1},
        {"bit": 4},
    ):
        with pytest.raises(ValidationError):
            Uniform(**given)


def trainable(variant):
    """The convolutional net, trained briefly to classify four patterns, then quantised."""
    one = subject("cnn")
    patterns = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    one.batch["image"] += patterns[one.batch["labels"]]
    train(one, 5)
    variant.transform(one.model, one.work)
    return one


def train(one, steps):
    model, losses = one.model.train(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = one.work.loss(model, one.batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("step", ["minmax", "learned"])
def test_training_in_few_bits_lowers_the_loss_and_learned_steps_move(step):
    one = trainable(Uniform(bits=3, activation_bits=4, step=step))
    ends = (".step", ".offset") if step == "learned" else (".most",)
    before = {
        name: tensor.clone()
        for name, tensor in one.model.state_dict().items()
        if name.endswith(ends)
    }
    assert before
    one.work.loss(one.model.train(), one.batch).backward()
    for name, parameter in one.model.named_parameters():
        # An offset has a gradient only where something lies outside of the range.
        assert name.endswith(".offset") or parameter.grad.abs().sum() > 0, name
    losses = train(one, 30)
    assert losses[-1] < 0.8 * losses[0]
    after = one.model.state_dict()
    for name, tensor in before.items():
        still = name.endswith(".offset") or name == "stem.0.input_quantizer.most"  # same samples
        assert still or not torch.equal(after[name], tensor), name
        assert (after[name] > 0).all() or name.endswith(".offset"), name
    evaluated = copy.deepcopy(after)
    logits = one.logits()
    assert all(torch.equal(one.model.state_dict()[name], evaluated[name]) for name in evaluated)
    assert torch.equal(one.logits(deploy(copy.deepcopy(one.model))), logits)


def test_learned_steps_beat_the_range_at_two_bits_after_the_same_training():
    found = {}
    for step in ("minmax", "learned"):
        one = trainable(Uniform(bits=2, activation_bits=4, step=step))
        train(one, 30)
        found[step] = one.work.loss(one.model.eval(), one.batch).item()
    assert found["learned"] < found["minmax"]
