import gc
import weakref
from collections import OrderedDict

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.taps import Taps, first_tensor


def test_the_last_output_of_a_module_that_runs_twice_is_kept(net):
    x = torch.randn(2, 3)
    with Taps(net, ["shared"]) as taps:
        net(x)
        captured = taps.take()
    assert torch.equal(captured["shared"], net.shared(net.shared(x)))


def test_any_call_can_be_selected(net):
    x = torch.randn(2, 3)
    once = net.shared(x)
    with Taps(net, ["shared@0", "shared@1", "shared", "again@0"]) as taps:
        for _ in range(2):  # counting begins anew after each take
            net(x)
            captured = taps.take()
            assert torch.equal(captured["shared@0"], once)
            assert torch.equal(captured["again@0"], once)
            assert torch.equal(captured["shared@1"], net.shared.forward(once))
            assert captured["shared"] is captured["shared@1"]


def test_a_missing_call_is_an_error(net):
    with Taps(net, ["shared@2"]) as taps:
        net(torch.randn(2, 3))
        with pytest.raises(InputError, match=r"tap shared@2: got '2 calls'; .* from @0 to @1"):
            taps.take()


def test_inputs_can_be_selected(net):
    x = torch.randn(2, 3)
    paths = ["shared:input", "shared@0:input", "pair:input", "pair:output", ":input"]
    with Taps(net, paths) as taps:
        net(x)
        captured = taps.take()
    assert captured["shared@0:input"] is x
    assert captured[":input"] is x
    assert torch.equal(captured["shared:input"], net.shared(x))
    assert torch.equal(captured["pair:output"], captured["pair:input"] + 1)  # passed by keyword


def test_captured_tensors_carry_the_graph(net):
    with Taps(net, ["shared"]) as taps:
        net(torch.randn(2, 3))
        taps.take()["shared"].sum().backward()
    assert net.shared.weight.grad is not None


def test_paths_are_unique_and_in_the_given_order(net):
    with Taps(net, ["pair", "shared", "pair"]) as taps:
        net(torch.randn(2, 3))
        captured = taps.take()
    assert list(captured) == ["pair", "shared"]
    assert captured["pair"].shape == (2, 3)


def test_patterns_are_expanded():
    net = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU()), nn.Linear(3, 2))
    with Taps(net, ["*", "0:input", "0"]) as taps:
        net(torch.zeros(2, 3))
        assert list(taps.take()) == ["0", "1", "2", "0:input"]


def test_hooks_exist_only_inside_the_block(net, hooks):
    taps = Taps(net, ["shared", "pair", "pair:input"])
    assert hooks(net) == 0
    with taps:
        assert hooks(net) == 3
    assert hooks(net) == 0
    with pytest.raises(RuntimeError), taps:
        raise RuntimeError
    assert hooks(net) == 0


def test_tensors_are_released_after_the_step(net):
    captured = []
    net.shared.register_forward_hook(lambda *args: captured.append(weakref.ref(args[-1])))
    taps = Taps(net, ["shared", "shared@0"])
    with taps:
        net(torch.randn(2, 3))
        taps.take()
        assert all(tensor() is None for tensor in captured)
        net(torch.randn(2, 3))
        assert any(tensor() is not None for tensor in captured)
    assert all(tensor() is None for tensor in captured)


def test_tensors_are_released_after_an_exception(net):
    captured = []
    net.shared.register_forward_hook(lambda *args: captured.append(weakref.ref(args[-1])))
    taps = Taps(net, ["shared"])
    net.pair.forward = None
    with pytest.raises(TypeError), taps:
        net(torch.randn(2, 3))
    gc.collect()
    assert all(tensor() is None for tensor in captured)


def test_a_module_that_does_not_run_is_an_error(net):
    with Taps(net, ["idle", "idle:input"]) as taps:
        net(torch.randn(2, 3))
        with pytest.raises(InputError, match="tap idle: got 'no output'") as caught:
            taps.take()
    assert caught.value.problems[1].given == "no input"


def test_an_output_changed_in_place_is_an_error_and_not_a_wrong_feature():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(inplace=True))
    for path in ("0", "1:input"):
        with Taps(net, [path]) as taps:
            net(torch.randn(4, 3))
            with pytest.raises(InputError, match="inplace=False"):
                taps.take()
    with Taps(net, ["1"]) as taps, torch.inference_mode():
        net(torch.randn(4, 3))
        assert taps.take()["1"].min() >= 0


def test_a_module_without_a_tensor_is_an_error():
    class Text(nn.Module):
        def forward(self, x):
            return "no tensor"

    net = nn.Sequential(Text())
    with Taps(net, ["0"]), pytest.raises(InputError, match="returns a tensor"):
        net(torch.zeros(1))
    with Taps(net, ["0:input"]), pytest.raises(InputError, match="takes a tensor"):
        net("no tensor either")


def test_the_first_tensor_of_any_nesting_is_found():
    x = torch.zeros(1)
    nested = OrderedDict(loss=None, outputs=([None, "text", (x,)], torch.ones(1)))
    assert first_tensor(nested) is x
    assert first_tensor({"a": None}) is None


def test_without_paths_no_hook_is_registered(net, hooks):
    with Taps(net, []) as taps:
        assert hooks(net) == 0
        assert taps.take() == {}


def _gradients(net, x):
    torch.manual_seed(1)
    with Taps(net, ["block.1", "block"]) as taps:
        output = net(x)
        captured = taps.take()
        (captured["block.1"].square().sum() + captured["block"].sum() + output.sum()).backward()
        # The backward pass ran the block again, and nothing came of it.
        with pytest.raises(InputError, match="no output"):
            taps.take()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


def test_checkpointing_changes_no_gradient(checkpointed):
    x = torch.randn(4, 3)
    torch.manual_seed(0)
    plain = checkpointed(None)
    kept = checkpointed(False)
    kept.load_state_dict(plain.state_dict())
    expected, found = _gradients(plain, x), _gradients(kept, x)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_reentrant_checkpoint_is_an_error_and_not_a_lost_gradient(checkpointed):
    net = checkpointed(True)
    x = torch.randn(4, 3, requires_grad=True)
    with Taps(net, ["block.1"]), pytest.raises(InputError, match="use_reentrant=False"):
        net(x)
    with torch.no_grad(), Taps(net, ["block.1"]) as taps:  # no gradient is required
        net(x)
        assert taps.take()["block.1"].shape == (4, 3)


def test_a_part_that_is_frozen_on_purpose_can_be_tapped(frozen):
    with Taps(frozen, ["stem"]) as taps:
        frozen(torch.randn(2, 3))
        assert not taps.take()["stem"].requires_grad
