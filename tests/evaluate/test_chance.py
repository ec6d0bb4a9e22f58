"""Chance and class order: against exact permutation tests, and on constructed predictions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from limbeck.evaluate.chance import _kappa_p_value, accuracy_lower_bound, chance_test
from limbeck.export.predictor import Predictions


def predictions_of(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Predictions:
    return Predictions(np.eye(classes, dtype=np.float32)[predicted], labels)


def drawn(classes: int, total: int, right: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels, and predictions of which a share is right and the rest is drawn."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, total)
    keep = random.random(total) < right
    return labels, np.where(keep, labels, random.integers(0, classes, total))


def test_the_moments_are_those_of_all_permutations() -> None:
    labels, predicted = np.array([0, 0, 1, 2, 1, 0, 2]), np.array([0, 1, 1, 2, 0, 0, 0])
    hits = [(labels == predicted[list(order)]).sum() for order in itertools.permutations(range(7))]
    right = (labels == predicted).sum()
    expected = stats.norm.sf((right - 0.5 - np.mean(hits)) / np.sqrt(np.var(hits)))
    assert _kappa_p_value(labels, predicted, 3) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_random_predictions_are_chance_and_good_ones_are_not(seed: int) -> None:
    assert chance_test(predictions_of(*drawn(10, 400, 0.0, seed), 10)).kappa_p_value > 1e-3
    assert not chance_test(predictions_of(*drawn(10, 400, 0.3, seed), 10)).is_chance


def test_a_constant_prediction_is_chance_however_frequent_its_class() -> None:
    labels = np.where(np.arange(500) % 50 == 0, 1, 0)
    found = chance_test(predictions_of(labels, np.zeros(500, dtype=int), 2))
    assert found.accuracy == 0.98
    assert found.is_chance
    assert not found.is_better_than_majority


def test_skill_on_a_rare_class_is_not_chance() -> None:
    labels = np.where(np.arange(1000) % 50 == 0, 1, 0)
    predicted = labels.copy()
    predicted[:200:50] = 0  # a fifth of the rare class is missed
    predicted[1:15] = 1
    found = chance_test(predictions_of(labels, predicted, 2))
    assert not found.is_chance
    assert not found.is_better_than_majority


def test_a_good_teacher_is_not_chance_on_a_small_validation_split() -> None:
    labels = np.arange(20) % 4
    assert not chance_test(predictions_of(labels, labels, 4)).is_chance


@pytest.mark.parametrize("classes", [3, 7, 40])
def test_a_permutation_of_the_classes_is_found(classes: int) -> None:
    labels, predicted = drawn(classes, 1200, 0.9)
    order = np.roll(np.arange(classes), 1)
    found = chance_test(predictions_of(labels, order[predicted], classes))
    assert found.class_order == tuple(order)
    assert found.reordered_accuracy == pytest.approx((labels == predicted).mean(), abs=0.02)


@pytest.mark.parametrize(
    ("classes", "total", "right"), [(2, 40, 0.0), (10, 60, 0.1), (100, 200, 0.0), (50, 400, 0.6)]
)
def test_no_permutation_is_found_where_there_is_none(classes, total, right) -> None:
    for seed in range(20):
        found = chance_test(predictions_of(*drawn(classes, total, right, seed), classes))
        assert found.class_order is None


def test_two_swapped_classes_of_ten_are_found() -> None:
    labels, predicted = drawn(10, 2000, 0.95)
    swapped = np.arange(10)
    swapped[[2, 8]] = [8, 2]
    found = chance_test(predictions_of(labels, swapped[predicted], 10))
    assert found.class_order == tuple(swapped)


def test_the_lower_bound_is_the_binomial_quantile() -> None:
    low = round(accuracy_lower_bound(0.93, 500) * 500)
    assert stats.binom.cdf(low - 1, 500, 0.93) < 0.01 <= stats.binom.cdf(low, 500, 0.93)
