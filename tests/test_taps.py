import gc
import weakref
from collections import OrderedDict

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.taps import Taps, first_tensor, list_paths


class Twice(nn.Module):
    """Runs one module twice, puts out a tuple, and has a module that never runs."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(3, 3)
        self.pair = Pair()
        self.idle = nn.Linear(3, 3)

    def forward(self, x):
        return self.pair(self.shared(self.shared(x)))[0]


class Pair(nn.Module):
    def forward(self, x):
        return x + 1, x


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Twice()


def hooks(module):
    return sum(len(part._forward_hooks) for part in module.modules())


def test_the_last_output_of_a_module_that_runs_twice_is_kept(net):
    x = torch.randn(2, 3)
    with Taps(net, ["shared"]) as taps:
        net(x)
        captured = taps.take()
    assert torch.equal(captured["shared"], net.shared(net.shared(x)))


def test_captured_tensors_carry_the_graph(net):
    with Taps(net, ["shared"]) as taps:
        net(torch.randn(2, 3))
        taps.take()["shared"].sum().backward()
    assert net.shared.weight.grad is not None


def test_paths_come_in_the_order_asked_for_and_once(net):
    with Taps(net, ["pair", "shared", "pair"]) as taps:
        net(torch.randn(2, 3))
        captured = taps.take()
    assert list(captured) == ["pair", "shared"]
    assert captured["pair"].shape == (2, 3)


def test_hooks_exist_only_inside_the_block(net):
    taps = Taps(net, ["shared", "pair"])
    assert hooks(net) == 0
    with taps:
        assert hooks(net) == 2
    assert hooks(net) == 0
    with pytest.raises(RuntimeError), taps:
        raise RuntimeError
    assert hooks(net) == 0


def test_nothing_is_held_after_the_step(net):
    taps = Taps(net, ["shared"])
    with taps:
        net(torch.randn(2, 3))
        first = weakref.ref(taps.take()["shared"])
        gc.collect()
        assert first() is None
        net(torch.randn(2, 3))
        second = weakref.ref(taps._captured["shared"][0])
    gc.collect()
    assert second() is None


def test_all_unknown_paths_are_named_with_the_nearest():
    net = nn.ModuleDict({"layer1": nn.ReLU(), "layer2": nn.ReLU()})
    with pytest.raises(InputError) as caught:
        Taps(net, ["layr1", "layer2", "nowhere"])
    first, second = caught.value.problems
    assert first.given == "layr1"
    assert '"layer1"' in first.fix
    assert second.given == "nowhere"


def test_a_module_that_does_not_run_is_an_error(net):
    with Taps(net, ["idle"]) as taps:
        net(torch.randn(2, 3))
        with pytest.raises(InputError, match="tap idle: got 'no output'"):
            taps.take()


def test_an_output_changed_in_place_is_an_error_and_not_a_wrong_feature():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(inplace=True))
    with Taps(net, ["0"]) as taps:
        net(torch.randn(4, 3))
        with pytest.raises(InputError, match="inplace=False"):
            taps.take()
    with Taps(net, ["1"]) as taps, torch.inference_mode():
        net(torch.randn(4, 3))
        assert taps.take()["1"].min() >= 0


def test_a_module_without_a_tensor_is_an_error():
    class Says(nn.Module):
        def forward(self, x):
            return "no tensor"

    net = nn.Sequential(Says())
    with Taps(net, ["0"]), pytest.raises(InputError, match="puts out a tensor"):
        net(torch.zeros(1))


def test_the_first_tensor_of_any_nesting_is_found():
    x = torch.zeros(1)
    nested = OrderedDict(loss=None, outputs=([None, "text", (x,)], torch.ones(1)))
    assert first_tensor(nested) is x
    assert first_tensor({"a": None}) is None


def test_listing_shows_every_path_and_leaves_the_module_as_it_was(net):
    net.idle.eval()
    net.batch = nn.BatchNorm1d(3)
    before = {key: value.clone() for key, value in net.state_dict().items()}

    def run(module):
        module(module.batch(torch.randn(2, 3)))

    layers = {layer.path: layer for layer in list_paths(net, run)}
    assert layers["shared"][1:] == ("Linear", (2, 3), 12)
    assert layers["pair"][1:] == ("Pair", (2, 3), 0)
    assert layers["idle"].shape is None
    assert hooks(net) == 0
    assert net.training
    assert not net.idle.training
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)


def test_no_paths_cost_nothing(net):
    with Taps(net, []) as taps:
        assert hooks(net) == 0
        assert taps.take() == {}
