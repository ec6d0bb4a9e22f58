"""Law 15: the losses without some transforms, and computation in blocks."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import pytest
import torch
from loss_trials import TRIALS
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from limbeck import losses
from limbeck.errors import InputError
from limbeck.losses import _blocks, relations
from limbeck.targets import DenseTargets, HeadTargets, SampledTargets, TopKTargets
from limbeck.testing import transforms
from limbeck.testing.subject import Subject

FORWARD_OR_TWICE = {
    "torch.func.jvp",
    "torch.func.jacfwd",
    "torch.func.hessian",
    "a gradient of the gradient",
}
IN_BLOCKS = ("divergence", "soft_target_kl", "ttm", "mlkd", "minilm_relation", "rkd_angle")


def attempts(name):
    for trial in TRIALS[name]:
        given = {"reference": None, "draw": None} | trial.keywords
        subject = Subject(trial.args[0], given["kind"], given["reference"], 0, given["draw"])
        yield from transforms.attempts(subject)


def pair(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.slow
def test_only_the_fused_form_lacks_transforms():
    refused = defaultdict(set)
    for name in losses.__all__:
        for attempt in attempts(name):
            if attempt.refusal is not None:
                assert isinstance(attempt.refusal, InputError), attempt
                refused[name].add(attempt.name)
    assert refused == {"fused_divergence": FORWARD_OR_TWICE}


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_BLOCKS)
def test_transforms_agree_in_blocks(monkeypatch, name):
    monkeypatch.setattr(_blocks, "_PLAIN", 0)
    monkeypatch.setattr(_blocks, "_CACHED", (8, 8))
    monkeypatch.setattr(relations, "_BLOCK", 100)
    for attempt in attempts(name):
        assert attempt.refusal is None, attempt
        assert attempt.difference < attempt.allowed, attempt


def test_a_gradient_through_a_training_step():
    """An outer gradient through one step of inner training."""
    student, teacher = pair(4, 3)
    weight = torch.eye(3, dtype=torch.float64)

    def loss(weight):
        return losses.soft_target_kl(student @ weight, teacher, temperature=3.0).mean()

    def after_a_step(weight, grad):
        return loss(weight - 0.5 * grad(weight))

    leaf = weight.clone().requires_grad_()
    plain = after_a_step(leaf, lambda w: torch.autograd.grad(loss(w), w, create_graph=True)[0])
    expected = torch.autograd.grad(plain, leaf)[0]
    found = torch.func.grad(partial(after_a_step, grad=torch.func.grad(loss)))(weight)
    torch.testing.assert_close(found, expected)


def test_per_sample_gradients_by_vmap():
    student, teacher = pair(5, 4)

    def loss(logits, target):
        return losses.divergence(logits[None], DenseTargets(target[None]), temperature=2.0)[0]

    rows = torch.func.vmap(torch.func.grad(loss))(student, teacher)
    leaf = student.clone().requires_grad_()
    losses.divergence(leaf, DenseTargets(teacher), temperature=2.0).sum().backward()
    torch.testing.assert_close(rows, leaf.grad)


@pytest.mark.parametrize("name", ["soft_target_kl", "standardized_kl", "ttm", "wttm"])
def test_dual_numbers_have_a_tangent(name):
    student, teacher = pair(4, 6)
    loss = partial(losses.find(name), temperature=2.0)
    along = torch.ones_like(student).cumsum(1)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(
            loss(forward_ad.make_dual(student, along), teacher)
        ).tangent
    step = 1e-6
    expected = loss(student + step * along, teacher) - loss(student - step * along, teacher)
    torch.testing.assert_close(tangent, expected / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "tvd"])
@pytest.mark.parametrize("plain", [True, False])
def test_derivatives_are_finite_with_classes_of_minus_infinity(monkeypatch, kind, plain):
    if not plain:
        monkeypatch.setattr(_blocks, "_PLAIN", 0)
    student, teacher = pair(3, 5)
    student[0, 1], teacher[1, 2], student[2, 3], teacher[2, 3] = (-torch.inf,) * 4
    for targets in (
        DenseTargets(teacher),
        TopKTargets.of(teacher, 2),
        HeadTargets(teacher.masked_fill(teacher.isinf(), -50), torch.eye(5).double()),
        SampledTargets.draw(teacher, draws=2, temperature=2.0),
    ):

        def total(logits, targets=targets):
            return losses.divergence(logits, targets, kind=kind, temperature=2.0).sum()

        assert total(student).isfinite()
        assert torch.func.grad(total)(student).isfinite().all()
        assert torch.func.hessian(total)(student).isfinite().all()


def test_the_closed_form_in_blocks_passes_gradcheck(monkeypatch):
    monkeypatch.setattr(_blocks, "_PLAIN", 0)
    monkeypatch.setattr(_blocks, "_CACHED", (8, 8))
    student, teacher = pair(3, 4)
    student.requires_grad_()
    options = {
        "check_forward_ad": True,
        "check_batched_grad": True,
        "check_batched_forward_grad": True,
    }
    for kind in ("forward_kl", "reverse_kl", "jsd"):
        for targets in (DenseTargets(teacher), TopKTargets.of(teacher, 2)):

            def value(logits, kind=kind, targets=targets):
                return losses.divergence(logits, targets, kind=kind, temperature=2.0)

            assert gradcheck(value, (student,), **options)
            assert gradgradcheck(value, (student,), check_fwd_over_rev=True)


def test_distances_pass_gradcheck():
    features = pair(5, 3)[0].requires_grad_()
    options = {"check_forward_ad": True, "check_batched_grad": True}
    assert gradcheck(relations.distances, (features,), **options)
    assert gradgradcheck(relations.distances, (features,), check_fwd_over_rev=True)


def test_a_gradient_with_create_graph_equals_one_without():
    """`create_graph=True` alone requires no second derivative."""
    hidden, weight = pair(4, 3)[0].requires_grad_(), pair(5, 3)[1]
    targets = DenseTargets(pair(4, 5)[0])
    value = losses.fused_divergence(hidden, weight, targets, temperature=2.0)
    [first] = torch.autograd.grad(value, hidden, retain_graph=True)
    [same] = torch.autograd.grad(value, hidden, create_graph=True)
    assert torch.equal(first, same)
    with pytest.raises(InputError, match="got 'a second derivative'"):
        same.square().sum().backward()


def test_a_value_of_zero_weight_has_a_second_derivative_of_zero():
    zero, teacher = torch.zeros(3, 4, dtype=torch.float64), pair(3, 4)[0]

    def total(student):
        return losses.hidden_cosine(student, teacher).sum()

    assert torch.func.hessian(total)(zero).isfinite().all()
