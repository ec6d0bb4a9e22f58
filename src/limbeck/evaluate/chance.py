"""Test whether predictions are better than chance, and in the order of the labels' classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from limbeck.core.measurement import Result

if TYPE_CHECKING:
    from limbeck.export.predictor import Predictions

ALPHA = 0.05
SIGMAS, GAIN = 5.0, 0.1
"""A gain in accuracy beyond estimation error: in standard deviations, and a minimal share."""


class ChanceTest(Result):
    """The comparison of predictions with a constant prediction of the most frequent class.

    Attributes:
        accuracy: The share of correct predictions.
        total: Number of samples.
        majority_share: The share of the most frequent class, a constant prediction's accuracy.
        kappa_p_value: The probability of as many correct predictions if they were independent of
            the labels, given how often each class is predicted (a one-sided test of Cohen's kappa
            against 0).
        worse_p_value: The probability of as few correct predictions if accuracy were
            `majority_share`.
        better_p_value: The probability of as many correct predictions if accuracy were
            `majority_share`.
        class_order: The order of outputs in which accuracy is far higher, estimated on one half of
            the samples and confirmed on the other; None if there is no such order. Entry `k` is the
            output that predicts class `k`.
        reordered_accuracy: The accuracy in that order, on samples that it was not estimated on.
    """

    accuracy: float
    total: int
    majority_share: float
    kappa_p_value: float
    worse_p_value: float
    better_p_value: float
    class_order: tuple[int, ...] | None = None
    reordered_accuracy: float | None = None

    @property
    def is_chance(self) -> bool:
        """Return whether predictions are independent of the labels, or worse than constant ones."""
        return self.kappa_p_value >= ALPHA or self.worse_p_value < ALPHA

    @property
    def is_better_than_majority(self) -> bool:
        """Return whether accuracy is significantly above the share of the most frequent class."""
        return self.better_p_value < ALPHA

    def __str__(self) -> str:
        return (
            f"{self.accuracy:.2%} on {self.total} validation samples, where the most frequent "
            f"class alone has {self.majority_share:.2%}"
        )


def chance_test(predictions: Predictions) -> ChanceTest:
    """Test whether predictions, logits `[n, classes]` and labels `[n]`, are better than chance.

    Example:
        >>> from limbeck.export.predictor import Predictions
        >>> labels = np.arange(60) % 3
        >>> constant = Predictions(np.tile([1.0, 0.0, 0.0], (60, 1)).astype(np.float32), labels)
        >>> chance_test(constant).is_chance
        True
        >>> reversed_order = Predictions(np.eye(3, dtype=np.float32)[2 - labels], labels)
        >>> chance_test(reversed_order).class_order
        (2, 1, 0)

    Source: Cohen 1960 for kappa; the moments of a permutation statistic are Hoeffding's (1951).
    """
    labels, classes = predictions.labels, predictions.logits.shape[1]
    predicted = predictions.logits.argmax(axis=1)
    total, right = len(labels), int((predicted == labels).sum())
    majority = float(np.bincount(labels, minlength=classes).max()) / total
    order, reordered_accuracy = _class_order(labels, predicted, classes)
    return ChanceTest(
        accuracy=right / total,
        total=total,
        majority_share=majority,
        kappa_p_value=_kappa_p_value(labels, predicted, classes),
        worse_p_value=float(stats.binom.cdf(right, total, majority)),
        better_p_value=float(stats.binom.sf(right - 1, total, majority)),
        class_order=order,
        reordered_accuracy=reordered_accuracy,
    )


def _kappa_p_value(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> float:
    r"""Compute the one-sided p-value of the number of correct predictions under permutations.

    With row counts $r_k$ and column counts $c_l$ of the confusion matrix, the number of correct
    predictions has mean $\sum_k r_k c_k/n$ and variance
    $\frac{1}{n-1}\sum_{kl} r_k c_l (\delta_{kl} - c_k/n - r_l/n + \sum_j r_j c_j/n^2)^2$.
    """
    total = len(labels)
    if total < 2:
        return 1.0
    rows, columns = (np.bincount(one, minlength=classes) for one in (labels, predicted))
    used = (rows + columns) > 0
    rows, columns = rows[used].astype(np.float64), columns[used].astype(np.float64)
    mean = float(rows @ columns) / total
    deviation = np.eye(len(rows)) - columns[:, None] / total - rows[None, :] / total + mean / total
    variance = float(rows @ deviation**2 @ columns) / (total - 1)
    if variance < 1e-9:
        return 1.0
    right = float((labels == predicted).sum())
    # The half is the continuity correction.
    return float(stats.norm.sf((right - 0.5 - mean) / math.sqrt(variance)))


def _class_order(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> tuple[tuple[int, ...] | None, float | None]:
    """Return an order of the outputs whose accuracy on held-out samples is far better, and that."""
    total = len(labels)
    # Random halves, since labels may alternate.
    half = np.random.default_rng(0).permutation(total) % 2
    right = 0
    for fold in (0, 1):
        fitted, held_out = half == fold, half != fold
        order = _assignment(labels[fitted], predicted[fitted], classes)
        right += int((order[labels[held_out]] == predicted[held_out]).sum())
    gain = (right - int((labels == predicted).sum())) / total
    if gain <= max(GAIN, SIGMAS / math.sqrt(total)):
        return None, None
    return tuple(_assignment(labels, predicted, classes).tolist()), right / total


def _assignment(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Assign an output to each class so that accuracy is highest."""
    cells = np.bincount(labels * classes + predicted, minlength=classes * classes)
    # Ties are broken in favour of the given order.
    table = cells.reshape(classes, classes) + 1e-3 * np.eye(classes)
    order: NDArray[np.int64] = optimize.linear_sum_assignment(table, maximize=True)[1]
    return order


def lowest_expected(accuracy: float, total: int) -> float:
    """Return the lowest accuracy on `total` samples that agrees with a true `accuracy`, at 99 %.

    Example:
        >>> round(lowest_expected(0.9339, 1000), 3)
        0.915
    """
    return float(stats.binom.ppf(0.01, total, accuracy)) / total
