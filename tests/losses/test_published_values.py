"""Published statements about the first losses, as numbers, and where they contradict each other."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from limbeck import losses
from limbeck.objective import Objective, Term, methods
from limbeck.targets import DenseTargets, TopKTargets

CAT = [10.5, 2.1, -5.3, -8.2]


def softened(logits, temperature):
    return special.softmax(np.asarray(logits) / temperature)


def logits(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradient(value, leaf):
    return torch.autograd.grad(value.sum(), leaf)[0]


def test_temperature_raises_entropy_and_changes_no_order():
    entropies = [stats.entropy(softened(CAT, t)) for t in (0.1, 1, 2, 5, 10, 100)]
    assert entropies == sorted(entropies)
    assert softened(CAT, 1e-3) == pytest.approx([1, 0, 0, 0])
    assert softened(CAT, 1e6) == pytest.approx([0.25] * 4, abs=1e-5)
    assert all(softened(CAT, t).argmax() == 0 for t in (0.1, 1, 10, 100))


def test_published_probabilities_of_the_cat_example():
    assert softened(CAT, 1).round(4).tolist() == [0.9998, 0.0002, 0, 0]
    assert softened(CAT, 10).round(3).tolist() == [0.558, 0.241, 0.115, 0.086]
    # One source prints .75, .20, .03, .02, of no temperature; 6 is close.
    assert softened(CAT, 6).round(3).tolist() == [0.734, 0.181, 0.053, 0.033]


def test_kl_is_a_negative_log_likelihood_up_to_the_teachers_entropy():
    student, teacher = logits(5, 4), logits(5, 4).flip(0)
    p = special.softmax(teacher.numpy(), 1)
    likelihood = -(p * special.log_softmax(student.numpy(), 1)).sum(1)
    kl = losses.soft_target_kl(student, teacher, temperature=1.0).numpy()
    np.testing.assert_allclose(kl, likelihood - special.entr(p).sum(1), rtol=1e-10)


def test_without_t_squared_the_gradient_falls_with_its_square():
    student, teacher = logits(8, 10).requires_grad_(), logits(8, 10).flip(0)
    temperatures = np.array([4.0, 8.0, 16.0, 32.0])
    sizes = [
        gradient(losses.soft_target_kl(student, teacher, temperature=t), student).norm().item()
        for t in temperatures.tolist()
    ]
    with_factor = np.polyfit(np.log(temperatures), np.log(sizes), 1)[0]
    without = np.polyfit(np.log(temperatures), np.log(np.array(sizes) / temperatures**2), 1)[0]
    assert with_factor == pytest.approx(0, abs=0.1)
    assert without == pytest.approx(-2, abs=0.1)


def test_the_limit_at_high_temperature_is_logit_matching_up_to_the_offset():
    student, teacher = logits(6, 5), logits(6, 5).flip(0)
    centred = [x - x.mean(1, keepdim=True) for x in (student, teacher)]
    soft = losses.soft_target_kl(student, teacher, temperature=1e4)
    torch.testing.assert_close(soft, losses.logit_mse(*centred) / 2, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_both_forms_of_the_hybrid_objective_are_equal(alpha):
    """α·hard + (1−α)·T²·KL, and α·hard + β·T²·KL with an independent β."""
    student, teacher = logits(6, 5).requires_grad_(), logits(6, 5).flip(0)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])

    def total(terms):
        return Objective(terms).compute(student, teacher, labels).total

    temperature = 4.0
    p, q = (special.softmax(x.detach().numpy() / temperature, 1) for x in (teacher, student))
    bare = special.rel_entr(p, q).sum(1).mean()
    hard = -special.log_softmax(student.detach().numpy(), 1)[np.arange(6), labels].mean()
    expected = alpha * hard + (1 - alpha) * temperature**2 * bare
    assert total(methods.hinton(temperature, alpha)).item() == pytest.approx(expected)
    beta = 1 - alpha
    apart = [Term("task", weight=alpha), Term("soft_target_kl", temperature=4.0, weight=beta)]
    assert total(apart).item() == pytest.approx(expected)


def test_mse_of_probabilities_differs_from_mse_of_logits():
    student, teacher = logits(3, 4), logits(3, 4).flip(0)
    plain = losses.logit_mse(student, teacher)
    of_probabilities = losses.logit_mse(student.softmax(1), teacher.softmax(1))
    np.testing.assert_allclose(plain, ((student - teacher) ** 2).mean(1))
    assert not torch.allclose(plain, of_probabilities)


def test_soft_targets_that_do_not_sum_to_one_are_normalised():
    """[0.1, 0.8, 0.001]: as dense targets its logarithm is normalised; as a share of 1 it lacks."""
    printed = torch.tensor([[0.1, 0.8, 0.001]], dtype=torch.float64)
    student = logits(1, 3)
    dense = DenseTargets(printed.log())
    right = DenseTargets((printed / printed.sum()).log())
    torch.testing.assert_close(
        losses.divergence(student, dense, temperature=1.0),
        losses.divergence(student, right, temperature=1.0),
    )
    ids = torch.tensor([[0, 1, 2]])
    all_of_it = TopKTargets(ids, printed.log(), classes=3)
    torch.testing.assert_close(
        losses.divergence(student, all_of_it, temperature=1.0),
        losses.divergence(student, right, temperature=1.0),
    )
