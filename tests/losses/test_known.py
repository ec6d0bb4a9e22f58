"""Small inputs on a processor have their gradient formed with the value; it must be the same."""

import math
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from limbeck import losses
from limbeck.losses import known

OUT = -math.inf
LOSSES = {
    "soft_target_kl": partial(losses.soft_target_kl, temperature=4.0),
    "standardized_kl": losses.standardized_kl,
    "standardized_kl of the paper": partial(losses.standardized_kl, temperature=1.0, correction=0),
    "fitnet_hint": losses.fitnet_hint,
}
LOGITS = [name for name in LOSSES if name != "fitnet_hint"]
every, of_logits = (pytest.mark.parametrize("name", names) for names in (LOSSES, LOGITS))


def pair(shape=(4, 5), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *shape, generator=generator, dtype=dtype)


def step(loss, student, teacher):
    leaf = student.clone().requires_grad_()
    value = loss(leaf, teacher)
    value.sum().backward()
    return value.detach(), leaf.grad


def plainly(monkeypatch, loss, student, teacher):
    """Value and gradient as they are where nothing is small."""
    with monkeypatch.context() as patch:
        patch.setattr(known, "_SMALL", 0)
        return step(loss, student, teacher)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_those_of_the_plain_form(monkeypatch, name, dtype):
    for size in (1e-3, 1.0, 30.0, 1e4):
        student, teacher = size * pair(dtype=dtype)
        value, gradient = step(LOSSES[name], student, teacher)
        expected, slopes = plainly(monkeypatch, LOSSES[name], student, teacher)
        torch.testing.assert_close(value, expected)
        rounding = 20 * torch.finfo(dtype).eps * float(slopes.abs().max())
        torch.testing.assert_close(gradient, slopes, rtol=0, atol=rounding)


@of_logits
@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("sides", [(True, False), (False, True), (True, True)])
def test_a_class_ruled_out_is_seen_on_either_side(monkeypatch, name, sides, size):
    for where in (0, 3):
        student, teacher = size * pair(dtype=torch.float32)
        for side, ruled_out in zip((student, teacher), sides, strict=True):
            if ruled_out:
                side[1, where] = OUT
        value, gradient = step(LOSSES[name], student, teacher)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        expected = plainly(monkeypatch, LOSSES[name], student, teacher)
        torch.testing.assert_close((value, gradient), expected)


@of_logits
def test_a_class_ruled_out_that_the_teacher_finds_impossible_anyway(monkeypatch, name):
    student, teacher = torch.tensor([[1.0, OUT, 0.5]]), torch.tensor([[1.0, -1e4, 0.5]])
    found = step(LOSSES[name], student, teacher)
    torch.testing.assert_close(found, plainly(monkeypatch, LOSSES[name], student, teacher))


@every
def test_the_gradient_can_be_differentiated(name):
    student, teacher = pair((3, 4))
    student.requires_grad_()
    assert gradcheck(lambda s: LOSSES[name](s, teacher), (student,))
    assert gradgradcheck(lambda s: LOSSES[name](s, teacher), (student,))


@every
def test_a_second_pass_backward_gives_the_same(name):
    student, teacher = pair()
    student.requires_grad_()
    total = LOSSES[name](student, teacher).sum()
    first, second, recorded = (
        torch.autograd.grad(total, student, retain_graph=True, create_graph=again)[0].clone()
        for again in (False, False, True)
    )
    torch.testing.assert_close(second, first)
    torch.testing.assert_close(recorded.detach(), first)
    total.backward()
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


@every
def test_gradients_of_a_whole_batch_of_directions(name):
    student, teacher = pair()
    rows = [
        torch.autograd.functional.jacobian(lambda s: LOSSES[name](s, teacher), student, vectorize=v)
        for v in (False, True)
    ]
    torch.testing.assert_close(rows[1], rows[0])


@every
def test_half_precision_and_no_gradient(name):
    student, teacher = pair(dtype=torch.float32)
    half = step(LOSSES[name], student.bfloat16(), teacher.bfloat16())
    full = step(LOSSES[name], student.bfloat16().float(), teacher.bfloat16().float())
    assert half[1].dtype == torch.bfloat16
    torch.testing.assert_close(half[0], full[0])
    torch.testing.assert_close(half[1], full[1].bfloat16())
    value = LOSSES[name](student, teacher.requires_grad_())
    assert not value.requires_grad


@every
def test_the_value_may_be_changed_in_place(name):
    student, teacher = pair()
    leaf = student.clone().requires_grad_()
    value = LOSSES[name](leaf, teacher)
    value *= 2
    value.sum().backward()
    torch.testing.assert_close(leaf.grad, 2 * step(LOSSES[name], student, teacher)[1])
