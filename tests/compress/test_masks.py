"""Masks hold: through training, saving, copying, other masks, and until they are baked in."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from four_nets import NETS, subject
from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress import mask_schedule
from limbeck.compress import masked_weights as masks
from limbeck.compress.changes import masks as changes
from limbeck.compress.materialize import materialize
from limbeck.compress.method import CompressError, apply
from limbeck.compress.pruners.magnitude import Magnitude
from limbeck.compress.pruners.movement import Movement
from limbeck.compress.pruners.random import Random
from limbeck.compress.pruners.semi_structured import SemiStructured
from limbeck.errors import InputError
from limbeck.training.optimizer import moving_average

PRUNE = {
    "magnitude": Magnitude(sparsity=0.6),
    "by layer": Magnitude(sparsity=0.6, scope="layer"),
    "random": Random(sparsity=0.6),
    "semi_structured": SemiStructured(),
    "cubic": Magnitude(sparsity=0.6, schedule="cubic"),
    "gradient": Movement(sparsity=0.6, begin=0, end=0.5),
    "gradient by layer": Movement(sparsity=0.6, begin=0, end=0.5, scope="layer"),
    "distance": Movement(sparsity=0.6, score="distance", begin=0, end=0.5),
    "soft": Movement(threshold="soft", begin=0, end=0.5, gain=1),
}


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.01)


def scatter(model):
    """Draw the scores of soft masks, which take long to move, so that some are below τ."""
    for plan in model.modules():
        if isinstance(plan, mask_schedule.SoftMask):
            for mask in plan._masks():
                torch.nn.init.normal_(mask.scores, std=3)


def train(sub, steps=20, model=None, optimizer=None, until=1.0):
    """Train as the loop does: progress first, then the step; it never reaches 1."""
    model = (model or sub.model).train()
    scatter(model)
    optimizer = optimizer or optimizer_of(model)
    plans = [part for part in model.modules() if isinstance(part, masks.Plan)]
    for step in range(steps):
        for plan in plans:
            plan.advance(until * step / steps)
        loss = sub.work.loss(model, sub.batch)
        extra = masks.penalty(model)
        (loss if extra is None else loss + extra).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def weights(model):
    """The masked weights as the layers compute with them, and their masks."""
    return {
        (path, name): (getattr(model.get_submodule(path), name).detach().clone(), kept(one))
        for path, found in masks.masked_weights(model).items()
        for name, one in found.items()
    }


def kept(weight):
    return changes.mask_of(weight).mask.clone()


@pytest.mark.parametrize("net", NETS)
def test_a_mask_of_ones_changes_no_logit(net):
    sub = subject(net)
    before = sub.logits()
    names = {
        path: masks.weights_of(layer)
        for path, layer in sub.model.named_modules()
        if isinstance(layer, (*masks.KINDS, nn.Embedding))
    }
    changes.apply(sub.model, layers=names)
    assert torch.equal(sub.logits(), before)
    assert set(masks.sparsity_of(sub.model).values()) == {0.0}
    assert masks.total_sparsity(sub.model) == 0.0


@pytest.mark.parametrize(("net", "variant"), list(itertools.product(NETS, PRUNE)))
def test_a_fresh_model_takes_the_structure_and_the_weights(net, variant):
    sub = subject(net)
    changes_made = [PRUNE[variant].transform(sub.model, sub.work).change]
    paths = [path for path, _ in subject(net).model.named_modules()]
    for trained in (False, True):
        if trained:
            train(sub, steps=4)
        fresh = subject(net).model
        apply(fresh, changes_made)
        fresh.load_state_dict(sub.model.state_dict())
        assert torch.equal(sub.logits(fresh), sub.logits())
    settled = masks.fixed(sub.model)
    changes_made += [] if settled is None else [settled]
    assert (settled is not None) == PRUNE[variant].needs_training
    changes_made.append(Magnitude(sparsity=0.9).transform(sub.model, sub.work).change)  # again
    fresh = subject(net).model
    apply(fresh, changes_made)
    fresh.load_state_dict(sub.model.state_dict())
    assert torch.equal(sub.logits(fresh), sub.logits())
    assert set(paths) <= {path for path, _ in sub.model.named_modules()}


@pytest.mark.parametrize("net", NETS)
def test_no_optimiser_brings_a_weight_back(net):
    sub = subject(net)
    train(sub, steps=2)
    Magnitude(sparsity=0.7).transform(sub.model, sub.work)
    before = weights(sub.model)
    train(sub)
    for place, (weight, mask) in weights(sub.model).items():
        assert torch.equal(mask, before[place][1])
        assert weight[~mask].count_nonzero() == 0
        assert not torch.equal(weight[mask], before[place][0][mask])
    for found in masks.masked_weights(sub.model).values():
        for weight in found.values():  # what is saved holds the zeros, too
            assert weight.original[~kept(weight)].count_nonzero() == 0


@pytest.mark.parametrize("variant", ["cubic", "gradient", "distance", "soft"])
@pytest.mark.parametrize("net", ["cnn", "lstm"])
def test_training_in_two_parts_is_training_in_one(net, variant):
    whole, parts = subject(net), subject(net)
    for sub in (whole, parts):
        change = PRUNE[variant].transform(sub.model, sub.work).change
    optimizers = [optimizer_of(sub.model) for sub in (whole, parts)]

    def step(sub, optimizer, progress):
        for plan in sub.model.modules():
            if isinstance(plan, masks.Plan):
                plan.advance(progress)
        extra = masks.penalty(sub.model)
        loss = sub.work.loss(sub.model.train(), sub.batch)
        (loss if extra is None else loss + extra).backward()
        optimizer.step()
        optimizer.zero_grad()

    scatter(whole.model)
    parts.model.load_state_dict(whole.model.state_dict())
    for progress in (0.0, 0.2, 0.4):
        for sub, optimizer in zip((whole, parts), optimizers, strict=True):
            step(sub, optimizer, progress)
    resumed = subject(net)
    apply(resumed.model, [change])
    resumed.model.load_state_dict(parts.model.state_dict())
    second = optimizer_of(resumed.model)
    second.load_state_dict(optimizers[1].state_dict())
    (position,) = [b for n, b in resumed.model.named_buffers() if n.endswith("progress")]
    assert position.item() == pytest.approx(0.4)
    for progress in (0.6, 0.8):
        step(whole, optimizers[0], progress)
        step(resumed, second, progress)
    assert torch.equal(whole.logits(), resumed.logits())
    assert masks.sparsity_of(whole.model) == masks.sparsity_of(resumed.model)


@pytest.mark.parametrize("variant", PRUNE)
@pytest.mark.parametrize("net", ["cnn", "lstm"])
def test_a_copy_lives_by_itself(net, variant):
    sub = subject(net)
    PRUNE[variant].transform(sub.model, sub.work)
    sub.work.loss(sub.model.train(), sub.batch).backward()  # an LSTM now holds results
    copied = copy.deepcopy(sub.model)
    sub.model.eval()
    before = sub.logits()
    assert torch.equal(sub.logits(copied), before)
    train(sub, steps=3, model=copied)
    assert torch.equal(sub.logits(), before)
    assert not torch.equal(sub.logits(copied), before)
    if PRUNE[variant].needs_training:
        assert masks.total_sparsity(sub.model) == 0 < masks.total_sparsity(copied)


def test_the_masks_of_an_lstm_are_what_it_computes_with():
    torch.manual_seed(0)
    layer = nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True)
    plain, x = copy.deepcopy(layer), torch.randn(3, 7, 5)
    names = masks.weights_of(layer)
    assert len(names) == 8
    assert all(name.startswith("weight_") for name in names)
    changes.apply(layer, layers={"": names})
    with torch.no_grad():
        for name, weight in masks.masked_weights(layer)[""].items():
            mask = torch.rand(weight.original.shape) > 0.5
            changes.mask_of(weight).mask.copy_(mask)
            getattr(plain, name).mul_(mask)
    for model in (layer, copy.deepcopy(layer).double().float(), copy.deepcopy(layer)):
        out, (hidden, cell) = model(x)
        expected, (hidden_too, cell_too) = plain(x)
        assert torch.equal(out, expected)
        assert torch.equal(hidden, hidden_too)
        assert torch.equal(cell, cell_too)
    out.sum().backward()
    expected.sum().backward()
    for name, weight in masks.masked_weights(model)[""].items():
        grad = getattr(plain, name).grad * kept(weight)
        torch.testing.assert_close(weight.original.grad, grad)


@pytest.mark.parametrize("net", NETS)
def test_baked_weights_are_a_dense_model_with_zeros(net):
    sub = subject(net)
    Magnitude(sparsity=0.8).transform(sub.model, sub.work)
    before, shares = sub.logits(), masks.sparsity_of(sub.model)
    shipped = copy.deepcopy(sub.model)
    materialize(shipped)
    assert torch.equal(sub.logits(shipped), before)
    assert torch.equal(sub.logits(), before), "the model that was copied is as it was"
    assert masks.sparsity_of(sub.model) == shares
    dense = subject(net).model
    assert list(dense.state_dict()) == list(shipped.state_dict())
    assert [type(one) for one in dense.modules()] == [type(one) for one in shipped.modules()]
    dense.load_state_dict(shipped.state_dict())
    assert torch.equal(sub.logits(dense), before)
    sub.work.loss(shipped.train(), sub.batch).backward()


@pytest.mark.parametrize("variant", PRUNE)
def test_zeros_are_all_of_one_sign(variant):
    """Sparse storage takes 0.0 and -0.0 for two values."""
    sub = subject("cnn")
    PRUNE[variant].transform(sub.model, sub.work)
    train(sub, steps=5)
    masks.fixed(sub.model)
    train(sub, steps=2)
    saved = [
        w.original for found in masks.masked_weights(sub.model).values() for w in found.values()
    ]
    shares = masks.total_sparsity(sub.model)
    used = [weight for weight, _ in weights(sub.model).values()]
    materialize(sub.model)
    dense = [sub.model.get_submodule(path).weight for path in ("hidden", "deep.3", "head")]
    for tensors in (saved, used, dense):
        flat = torch.cat([one.detach().flatten() for one in tensors])
        assert not (flat.signbit() & (flat == 0)).any()
        assert (flat == 0).any()
    assert (torch.cat([one.flatten() for one in saved]) == 0).double().mean() == shares


def test_a_moving_average_has_the_masks_of_the_model():
    sub = subject("cnn")
    PRUNE["gradient"].transform(sub.model, sub.work)
    average = moving_average(sub.model, decay=0.5)
    train(sub, steps=4)
    average.update_parameters(sub.model)
    train(sub, steps=4)
    average.update_parameters(sub.model)
    assert masks.sparsity_of(average.module) == masks.sparsity_of(sub.model)
    assert masks.fixed(average.module) is not None
    assert masks.total_sparsity(average.module) == pytest.approx(0.6, abs=1e-3)


class Rounded(nn.Module):
    """Stands for a fake quantiser."""

    def forward(self, weight):
        return weight + (torch.round(weight * 8) / 8 - weight).detach()


@pytest.mark.parametrize("first", ["rounded", "masked"])
def test_masks_go_together_with_other_parametrizations(first):
    sub = subject("cnn")
    layer = sub.model.hidden
    if first == "rounded":
        parametrize.register_parametrization(layer, "weight", Rounded())
    Magnitude(sparsity=0.5, layers=["hidden"]).transform(sub.model, sub.work)
    if first == "masked":
        parametrize.register_parametrization(layer, "weight", Rounded())
    Magnitude(sparsity=0.75, layers=["hidden"]).transform(sub.model, sub.work)
    (found,) = masks.masked_weights(sub.model)["hidden"].values()
    expected = torch.round(found.original * 8) / 8 * kept(found)
    torch.testing.assert_close(layer.weight, expected)
    assert masks.sparsity_of(sub.model) == {"hidden": 0.75}
    materialize(sub.model)
    assert not parametrize.is_parametrized(layer)
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_a_weight_made_of_several_tensors_is_refused():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    with pytest.raises(InputError, match="one tensor"):
        Magnitude(sparsity=0.5).check(net, subject("cnn").work)
    Magnitude(sparsity=0.5, skip=["0"]).transform(net, subject("cnn").work)


def test_what_trained_is_kept_as_it_was_in_training():
    """The last step moves the scores, but what was validated is the mask before it."""
    sub = subject("cnn")
    PRUNE["gradient"].transform(sub.model, sub.work)
    train(sub)
    before, share = sub.logits(), masks.total_sparsity(sub.model)
    assert share == round(0.6 * 1984) / 1984
    assert masks.fixed(sub.model) is not None
    assert torch.equal(sub.logits(), before)
    assert not [name for name in sub.model.state_dict() if "scores" in name or "plan" in name]
    assert masks.fixed(sub.model) is None


@pytest.mark.parametrize("variant", ["cubic", "gradient", "distance"])
def test_what_was_cut_short_is_completed(variant):
    sub = subject("cnn")
    PRUNE[variant].transform(sub.model, sub.work)
    train(sub, steps=4, until=0.2)
    assert 0 < masks.total_sparsity(sub.model) < 0.6
    masks.fixed(sub.model)
    assert masks.total_sparsity(sub.model) == round(0.6 * 1984) / 1984


@pytest.mark.parametrize("variant", ["gradient", "distance", "soft"])
def test_movement_without_training_is_an_error(variant):
    sub = subject("cnn")
    PRUNE[variant].transform(sub.model, sub.work)
    with pytest.raises(CompressError, match="nothing is pruned"):
        masks.fixed(sub.model)


def test_pruning_again_ends_what_still_grows():
    sub = subject("cnn")
    PRUNE["gradient"].transform(sub.model, sub.work)
    train(sub, steps=4, until=0.2)
    before = weights(sub.model)
    Magnitude(sparsity=0.9, layers=["hidden"]).transform(sub.model, sub.work)
    assert not [part for part in sub.model.modules() if isinstance(part, masks.Plan)]
    assert masks.sparsity_of(sub.model)["hidden"] == round(0.9 * 384) / 384
    for place, (_, mask) in weights(sub.model).items():
        assert torch.equal(mask, before[place][1]) or place[0] == "hidden"
