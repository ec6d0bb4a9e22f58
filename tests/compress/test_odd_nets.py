"""Random networks that permute channels: a removal is correct, or those channels are skipped."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from every_method import attempt, changed, of_models
from four_nets import Subject
from odd_nets import BLOCKS, HEADS, OddNet, drawn, with_silent
from torch import Tensor, nn

from limbeck.compress.method import CompressError, TransformResult, apply
from limbeck.compress.pruners.channels import Channels
from limbeck.compress.pruners.layers import Layers
from limbeck.compress.verify_structure import cut_and_trace, departs_from_masked
from limbeck.tasks.image_classification import ImageClassification

pytest.importorskip("torch_pruning", reason="torch-pruning is an extra")

TASK = ImageClassification(tuple("abcd"))
MOVED = {"shuffle", "regroup", "flip", "roll"}


def subject(model: nn.Module) -> Subject:
    torch.manual_seed(0)
    images = torch.randn(16, 3, 4, 4)
    return Subject(model.eval(), TASK, {"image": images, "labels": torch.arange(16) % 4})


def check_cut(model: nn.Module, **settings) -> TransformResult:
    """Prune channels, and compare with the net whose channels are zeroed by hooks."""
    made = subject(model)
    whole = copy.deepcopy(model)
    found = Channels(**settings).transform(model, made.work)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())
    assert with_silent(whole, model)
    torch.testing.assert_close(made.logits(model), made.logits(whole), rtol=1e-4, atol=1e-5)
    return found


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_is_cut_right(block):
    torch.manual_seed(1)
    found = check_cut(OddNet([block], "mean"), ratio=0.5)
    if block in MOVED:
        assert any("stem.0 (the pruned model differs" in note for note in found.notes)


@pytest.mark.parametrize("head", HEADS)
def test_each_head_reads_the_right_inputs(head):
    torch.manual_seed(1)
    found = check_cut(OddNet(["plain"], head), ratio=0.5)
    if head in ("channels last", "heads"):
        assert any("last (the pruned model differs" in note for note in found.notes)


@pytest.mark.parametrize("seed", range(200, 216))
def test_drawn_nets_are_cut_right_or_refused(seed):
    model, what = drawn(seed)
    before = copy.deepcopy(model.state_dict())
    found, why = attempt(lambda: check_cut(model, ratio=0.5))
    if found is None:
        assert "skipped: " in why, what
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_target_is_met_by_channels_that_may_go():
    torch.manual_seed(2)
    found = check_cut(OddNet(["flip", "plain", "plain"], "mean"), parameters=0.7)
    assert any("stem.0 (the pruned model" in note for note in found.notes)


def test_zeros_and_dead_units_do_not_hide_a_wrong_cut():
    torch.manual_seed(3)
    net = OddNet(["flip"], "mean")
    with torch.no_grad():
        net.last.weight.zero_()
    found = Channels(ratio=0.5).transform(net, subject(net).work)
    assert net.stem[0].out_channels == 8
    assert any("weights perturbed at random" in note for note in found.notes)


class Counted(nn.Module):
    """Layers whose code counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = image.mean(1).flatten(1)
        for number, layer in enumerate(self.layers):
            x = x + layer(x) * (1.0 if number % 2 else -0.5)
        return self.head(x)


def test_a_layer_before_counted_layers_is_refused_and_the_last_is_removed():
    torch.manual_seed(0)
    net = Counted()
    with pytest.raises(CompressError, match=r"without layers\.1 .*counts layers"):
        Layers(drop=[1]).transform(net, subject(net).work)
    assert len(net.layers) == 4
    made = subject(copy.deepcopy(net))
    net.layers[3].register_forward_hook(lambda _, args, out: torch.zeros_like(out))
    Layers(drop=[3]).transform(made.model, made.work)
    torch.testing.assert_close(made.logits(), made.logits(net))


def test_a_removal_in_another_order_is_found():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.LayerNorm(6), nn.Linear(6, 4)).eval()
    made = subject(net)
    kept, order = [1, 2, 4, 5], [4, 1, 2, 5]
    tensors = {"weight": [4, 48], "bias": [4]}
    change = {
        "kind": "reshape",
        "modules": {
            "1": {"attributes": {"out_features": 4}, "tensors": tensors},
            "2": {
                "attributes": {"normalized_shape": [4]},
                "tensors": {"weight": [4], "bias": [4]},
            },
            "3": {"attributes": {"in_features": 4}, "tensors": {"weight": [4, 4]}},
        },
    }

    def cut(model: nn.Module, of_norm: list[int]) -> None:
        for layer, places in ((model[1], kept), (model[2], of_norm)):
            layer.weight = nn.Parameter(layer.weight.detach()[places])
            layer.bias = nn.Parameter(layer.bias.detach()[places])
        model[3].weight = nn.Parameter(model[3].weight.detach()[:, kept])

    for places, right in ((kept, True), (order, False)):
        trial = copy.deepcopy(net)
        left = cut_and_trace(trial, lambda: cut(trial, places))  # noqa: B023
        wrong = departs_from_masked(net, change, left, made.work)
        assert (wrong == "") == right, wrong


class Recurrence(nn.Module):
    """A convolutional recurrence with gates, whose channels form a cycle."""

    def __init__(self, non_local: bool) -> None:
        super().__init__()
        self.non_local = non_local
        self.into, self.again = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.hidden, self.head = nn.Linear(8 * 16, 12), nn.Linear(12, 4)

    def forward(self, image: Tensor) -> Tensor:
        state = torch.zeros(len(image), 8, 4, 4).to(image)
        for _ in range(12):
            one, other = (self.into(image) + self.again(state)).chunk(2, 1)
            if self.non_local:
                places = one.flatten(2)
                one = (places @ (places.mT @ places).softmax(-1)).view_as(one)
            state = torch.sigmoid(one) * torch.tanh(other) + state
        return self.head(torch.relu(self.hidden(state.flatten(1))))


@pytest.mark.parametrize("non_local", [False, True])
def test_cyclic_channels_are_skipped_in_bounded_time(non_local, monkeypatch):
    monkeypatch.setattr("limbeck.compress.channels.STEPS", 1_000)
    torch.manual_seed(0)
    net = Recurrence(non_local)
    found = check_cut(net, ratio=0.5)
    assert net.hidden.out_features == 6
    assert any("skipped: into" in note and "not terminate" in note for note in found.notes)


@pytest.mark.parametrize("seed", range(300, 304))
@pytest.mark.parametrize("name", [name for name in of_models() if name != "prune.heads"])
def test_a_change_of_a_drawn_net_can_be_done_again_or_is_refused(name, seed):
    model, what = drawn(seed)
    fresh = copy.deepcopy(model)
    made = subject(model)
    changes, why = attempt(lambda: changed(name, made, made.model))
    if changes is None:
        assert len(why) > 20
        return
    apply(fresh, json.loads(json.dumps(changes)))
    fresh.load_state_dict(made.model.state_dict())
    torch.testing.assert_close(made.logits(fresh), made.logits(), msg=what)
