"""Distillation of quantiles: what a student that is less accurate than its teacher learns."""

import pytest
import torch

from limbeck.errors import InputError
from limbeck.losses import logit_mse, quantile_regression

LEVELS = (0.1, 0.5, 0.9)


def fitted(loss, teacher):
    """Fit one constant forecast to all of a teacher's."""
    student = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([student], lr=0.5, max_iter=100)

    def closure():
        optimizer.zero_grad()
        value = loss(student.expand(len(teacher), -1), teacher).mean()
        value.backward()
        return value

    optimizer.step(closure)
    return student.detach()[0]


def test_a_constant_student_learns_the_quantiles_of_all_samples_not_their_mean():
    random = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(2000, 1, generator=random, dtype=torch.float64).float()
    teacher = centres + torch.tensor([[-1.2816, 0.0, 1.2816]])  # normal, with a deviation of 1
    low, middle, high = fitted(lambda s, t: quantile_regression(s, t, levels=LEVELS), teacher)
    pooled = 1.2816 * 10**0.5  # of the mixture, whose deviation is the root of 9 + 1
    assert abs(middle) < 0.3
    assert (high - low) / 2 == pytest.approx(pooled, rel=0.06)
    low, _, high = fitted(logit_mse, teacher)
    assert (high - low) / 2 == pytest.approx(1.2816, rel=0.01)


def test_without_levels_every_quantile_has_the_same_probability():
    student, teacher = torch.randn(2, 5, 2).unbind()
    plain = quantile_regression(student, teacher)
    torch.testing.assert_close(plain, quantile_regression(student, teacher, levels=(0.25, 0.75)))


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.1, 0.9, 0.5), (0.0, 0.5, 0.9), (0.1, 0.5, 1.0)])
def test_levels_ascend_one_for_each_quantile(levels):
    with pytest.raises(InputError, match=r"quantile_regression\.levels.*3 levels"):
        quantile_regression(torch.zeros(2, 3), torch.zeros(2, 3), levels=levels)
