"""Sampled divergences: values and expected gradients, by enumeration of a small vocabulary."""

import pytest
import torch

from limbeck.errors import InputError
from limbeck.losses import divergence, sampled_divergence
from limbeck.targets import DenseTargets

GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 7, generator=GENERATOR, dtype=torch.float64)


def expected_gradient(loss_of):
    """Sum over all classes: q(y) times the gradient of the loss of the sample y."""
    logits = STUDENT.clone().requires_grad_()
    log_q = logits.log_softmax(0)
    loss = (log_q.detach().exp() * loss_of(log_q, TEACHER.log_softmax(0))).sum()
    [gradient] = torch.autograd.grad(loss, logits)
    return gradient


def exact_gradient(kind):
    logits = STUDENT.clone().requires_grad_()
    log_q, log_p = logits.log_softmax(0), TEACHER.log_softmax(0)
    if kind == "reverse_kl":
        value = (log_q.exp() * (log_q - log_p)).sum()
    else:
        value = (log_p.exp() * (log_p - log_q)).sum()
    [gradient] = torch.autograd.grad(value, logits)
    return gradient


@pytest.mark.parametrize("estimator", ["reverse_kl", "forward_kl"])
def test_an_estimator_has_the_expected_gradient_of_its_name(estimator):
    found = expected_gradient(lambda q, p: sampled_divergence(q, p, estimator=estimator))
    torch.testing.assert_close(found, exact_gradient(estimator))
    other = {"reverse_kl": "forward_kl", "forward_kl": "reverse_kl"}[estimator]
    assert (found - exact_gradient(other)).norm() > 0.1


def test_the_expected_gradient_of_k1_is_zero():
    found = expected_gradient(lambda q, p: q - p)
    torch.testing.assert_close(found, torch.zeros(7, dtype=torch.float64))


def test_the_expected_value_of_the_forward_estimator_is_the_reverse_kl():
    log_q, log_p = STUDENT.log_softmax(0), TEACHER.log_softmax(0)
    values = sampled_divergence(log_q, log_p, estimator="forward_kl")
    exact = divergence(
        STUDENT[None], DenseTargets(TEACHER[None]), kind="reverse_kl", temperature=1.0
    )
    torch.testing.assert_close((log_q.exp() * values).sum()[None], exact)


@pytest.mark.parametrize("estimator", ["reverse_kl", "forward_kl"])
def test_equal_sides_have_neither_value_nor_gradient(estimator):
    log_q = STUDENT.log_softmax(0).requires_grad_()
    value = sampled_divergence(log_q, log_q.detach().clone(), estimator=estimator)
    value.sum().backward()
    assert not value.any()
    assert not log_q.grad.any()


@pytest.mark.parametrize(
    ("estimator", "message"),
    [("k1", "trains nothing"), ("k2", "reverse_kl"), ("k3", "forward_kl"), ("kl", "allowed")],
)
def test_other_estimators_are_refused_with_the_name_to_use(estimator, message):
    with pytest.raises(InputError, match=message):
        sampled_divergence(torch.zeros(2), torch.zeros(2), estimator=estimator)


def test_different_shapes_are_refused():
    with pytest.raises(InputError, match="teacher_log_prob"):
        sampled_divergence(torch.zeros(2), torch.zeros(1))
