from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.compress.method import CompressError, apply
from limbeck.compress.structure import adopt, difference, sizes


def net(width: int, heads: int = 2) -> nn.Module:
    part = nn.Linear(width, width)
    made = nn.ModuleDict(
        {
            "first": nn.Conv2d(3, width, 1, groups=1, bias=False),
            "norm": nn.BatchNorm2d(width),
            "layer": nn.LayerNorm(width),
            "hidden": part,
            "again": part,
            "tied": nn.Linear(width, width, bias=False),
        }
    )
    made["tied"].weight = part.weight
    made["layer"].bias.requires_grad_(False)
    return made


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6))
def test_a_model_of_one_width_becomes_that_of_another(width, other):
    model, wanted = net(width), net(other)
    apply(model, [{"kind": "reshape", "modules": difference(sizes(model), sizes(wanted))}])
    model.load_state_dict(wanted.state_dict())
    assert sizes(model) == sizes(wanted)
    assert model["layer"].normalized_shape == (other,)
    assert isinstance(model["norm"].running_mean, torch.Tensor)
    assert "norm.running_mean" in model.state_dict()


def test_what_is_shared_stays_shared_and_what_is_frozen_frozen():
    model = net(4)
    apply(model, [{"kind": "reshape", "modules": difference(sizes(model), sizes(net(2)))}])
    assert model["tied"].weight is model["hidden"].weight
    assert model["again"] is model["hidden"]
    assert not model["layer"].bias.requires_grad
    assert model["layer"].weight.requires_grad
    assert len(list(model.parameters())) == len(list(net(2).parameters()))


def test_only_what_differs_is_written_down():
    one = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    other = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2))
    assert difference(sizes(one), sizes(other)) == {
        "0": {"attributes": {"out_features": 1}, "tensors": {"weight": [1, 4], "bias": [1]}},
        "2": {"attributes": {"in_features": 1}, "tensors": {"weight": [2, 1]}},
    }


def test_a_model_adopts_the_weights_of_a_copy():
    model, trial = net(4).double(), net(2).double()
    trial["norm"].running_mean.fill_(3.0)
    change = adopt(model, trial)
    for name, value in trial.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert change["kind"] == "reshape"
    with pytest.raises(CompressError, match="nothing was pruned"):
        adopt(model, trial)


def test_two_modules_that_shared_may_part():
    model = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
    model[1].weight = model[0].weight
    other = nn.ModuleList([nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)])
    apply(model, [{"kind": "reshape", "modules": difference(sizes(model), sizes(other))}])
    assert [tuple(one.weight.shape) for one in model] == [(2, 3), (3, 2)]
