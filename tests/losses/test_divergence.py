"""What is peculiar to the kinds of divergence: their ends, their bounds, unequal vocabularies."""

import math

import pytest
import torch

from limbeck.errors import InputError
from limbeck.losses import divergence, soft_target_kl
from limbeck.targets import DenseTargets

torch.manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 50, 8) * 2
TARGETS = DenseTargets(TEACHER)


def kl(kind, temperature=2.0):
    return divergence(STUDENT, TARGETS, kind=kind, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_forward_kl_is_soft_target_kl_to_the_bit(temperature):
    expected = soft_target_kl(STUDENT, TEACHER, temperature=temperature)
    assert torch.equal(kl("forward_kl", temperature), expected)


@pytest.mark.parametrize(("beta", "end"), [(1e-6, "forward_kl"), (1 - 1e-6, "reverse_kl")])
def test_normalized_jsd_is_continuous_up_to_the_two_kls(beta, end):
    options = {"kind": "jsd", "temperature": 2.0, "beta": beta, "normalized": True}
    student = STUDENT.clone().requires_grad_()
    value = divergence(student, TARGETS, **options)
    torch.testing.assert_close(value, kl(end), rtol=1e-3, atol=1e-5)
    value.sum().backward()
    other = STUDENT.clone().requires_grad_()
    divergence(other, TARGETS, kind=end, temperature=2.0).sum().backward()
    torch.testing.assert_close(student.grad, other.grad, rtol=1e-2, atol=1e-4)


def test_jsd_tends_to_zero_at_the_ends_and_is_symmetric_in_the_middle():
    for beta in (1e-6, 1 - 1e-6):
        assert divergence(STUDENT, TARGETS, kind="jsd", temperature=1.0, beta=beta).max() < 1e-4
    swapped = divergence(TEACHER, DenseTargets(STUDENT), kind="jsd", temperature=1.0)
    torch.testing.assert_close(swapped, divergence(STUDENT, TARGETS, kind="jsd", temperature=1.0))


def test_jsd_and_tvd_are_bounded():
    far, near = torch.tensor([[1e4, -1e4]]), DenseTargets(torch.tensor([[-1e4, 1e4]]))
    jsd = divergence(far, near, kind="jsd", temperature=1.0)
    assert jsd.item() == pytest.approx(math.log(2))
    assert divergence(far, near, kind="tvd", temperature=1.0).item() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "tvd"])
def test_unequal_vocabularies_give_what_the_common_part_gives(kind):
    wide = torch.cat([TEACHER, torch.full((50, 3), 9.0)], dim=1)
    value = divergence(STUDENT, DenseTargets(wide), kind=kind, temperature=2.0)
    assert torch.equal(value, kl(kind))


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "tvd"])
def test_padding_of_minus_infinity_changes_nothing(kind):
    padding = torch.full((50, 3), -math.inf)
    padded = DenseTargets(torch.cat([TEACHER, padding], dim=1))
    value = divergence(torch.cat([STUDENT, padding], 1), padded, kind=kind, temperature=2.0)
    torch.testing.assert_close(value, kl(kind))


def test_nothing_in_common_costs_much_but_is_finite():
    student = torch.tensor([[0.0, -math.inf]], requires_grad=True)
    value = divergence(
        student, DenseTargets(torch.tensor([[-math.inf, 0.0]])), kind="forward_kl", temperature=1.0
    )
    value.sum().backward()
    assert value.item() > 1e6
    assert value.isfinite().all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5, float("nan")])
def test_the_ends_of_jsd_point_to_the_kl_kinds(beta):
    with pytest.raises(InputError, match='"forward_kl" or "reverse_kl"'):
        divergence(STUDENT, TARGETS, kind="jsd", temperature=1.0, beta=beta)


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"beta": 0.5}, "divergence.beta"),
        ({"normalized": True}, "divergence.normalized"),
        ({"kind": "jsd", "temperature": -1.0}, "divergence.temperature"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, place):
    with pytest.raises(InputError) as caught:
        divergence(STUDENT, TARGETS, **({"temperature": 1.0} | settings))
    assert [problem.where for problem in caught.value.problems] == [place]
