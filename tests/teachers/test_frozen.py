"""The law of a teacher: evaluation mode, no gradient, the same bytes for ever."""

from __future__ import annotations

import copy

import pytest
import torch

from limbeck.core import fingerprint
from limbeck.errors import InputError
from limbeck.teachers import FrozenTeacher


def test_it_answers_in_evaluation_mode_whatever_a_caller_does(digits, task, net):
    model = net()
    expected = copy.deepcopy(model).eval()
    teacher, batch = FrozenTeacher(model, task), digits.train.__getitems__(range(20))
    for mess in (model.train, model[2].train, lambda: model[1].train()):
        mess()
        answer = teacher.answer(batch).logits
        assert not any(module.training for module in model.modules())
        assert torch.equal(answer, expected(batch["image"]))


def test_no_gradient_and_no_change(digits, task, net):
    model = net()
    teacher = FrozenTeacher(model, task, taps=["0"])
    before = fingerprint.of_tensors(model.state_dict())
    assert teacher.fingerprint == fingerprint.of_module(model)
    model.requires_grad_(True)
    for _ in range(3):
        answer = teacher.answer(digits.train.__getitems__(range(20)))
        assert not answer.logits.requires_grad
        assert not answer.taps["0"].requires_grad
        assert not answer.logits.is_inference()
        model.train()
    assert fingerprint.of_tensors(model.state_dict()) == before


def test_gradients_reach_the_inputs_and_no_parameter(digits, task, net):
    model = net()
    teacher = FrozenTeacher(model, task, ["0"], input_gradients=True)
    before = fingerprint.of_module(model)
    batch = digits.train.__getitems__(range(5))
    own, reference = (batch["image"].clone().requires_grad_() for _ in range(2))
    model.train().requires_grad_(True)
    answer = teacher.answer(batch | {"image": own})
    (answer.logits.square().sum() + answer.taps["0"].sum()).backward()
    assert all(one.grad is None and not one.requires_grad for one in model.parameters())
    (model(reference).square().sum() + model[0](reference).sum()).backward()
    torch.testing.assert_close(own.grad, reference.grad)
    assert own.grad.abs().sum() > 0
    assert not teacher.answer(batch).taps["0"].requires_grad
    with torch.no_grad():
        assert not teacher.answer(batch | {"image": own}).taps["0"].requires_grad
    assert fingerprint.of_module(model) == before


@pytest.mark.parametrize("form", ["top_k", "sampled", "head"])
def test_other_forms_have_no_gradient(task, net, form):
    with pytest.raises(InputError, match=f"targets: got '{form}'; allowed: dense, with input_grad"):
        FrozenTeacher(net(), task, targets=form, input_gradients=True)


def test_its_fingerprint_is_its_weights(task, net):
    one, same, other = (FrozenTeacher(net(seed), task) for seed in (0, 0, 1))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    drifted = net()
    drifted[1].running_var[0] += 1e-6
    assert FrozenTeacher(drifted, task).fingerprint != one.fingerprint


def test_it_shows_what_is_tapped_and_refuses_what_is_not_there(digits, task, net):
    model, batch = net(), digits.train.__getitems__(range(3))
    answer = FrozenTeacher(model, task, taps=["0", "1"]).answer(batch)
    assert {path: tuple(tap.shape) for path, tap in answer.taps.items()} == {
        "0": (3, 4, 6, 6),
        "1": (3, 4, 6, 6),
    }
    assert torch.equal(answer.taps["0"], model[0](batch["image"]))
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(InputError, match="tap: got '9'"):
        FrozenTeacher(model, task, taps=["9"])
