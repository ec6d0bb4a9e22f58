"""Chance-level test of predictions, and detection of a wrong order of their classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy  # its parts load when they are used
from numpy.typing import NDArray

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
    y_true, classes = predictions.labels, predictions.logits.shape[1]
    y_pred = predictions.logits.argmax(axis=1)
    total, correct = len(y_true), int((y_pred == y_true).sum())
    majority = float(np.bincount(y_true, minlength=classes).max()) / total
    order, reordered_accuracy = _class_order(y_true, y_pred, classes)
    return ChanceTest(
        accuracy=correct / total,
        total=total,
        majority_share=majority,
        kappa_p_value=_kappa_p_value(y_true, y_pred, classes),
        worse_p_value=float(scipy.stats.binom.cdf(correct, total, majority)),
        better_p_value=float(scipy.stats.binom.sf(correct - 1, total, majority)),
        class_order=order,
        reordered_accuracy=reordered_accuracy,
    )


def _kappa_p_value(y_true: NDArray[np.int64], y_pred: NDArray[np.int64], classes: int) -> float:
    r"""Compute the one-sided p-value of the number of correct predictions under permutations.

    With row counts $r_k$ and column counts $c_l$ of the confusion matrix, the number of correct
    predictions has mean $\sum_k r_k c_k/n$ and variance
    $\frac{1}{n-1}\sum_{kl} r_k c_l (\delta_{kl} - c_k/n - r_l/n + \sum_j r_j c_j/n^2)^2$.
    """
    total = len(y_true)
    if total < 2:
        return 1.0
    rows, columns = (np.bincount(one, minlength=classes) for one in (y_true, y_pred))
    used = (rows + columns) > 0
    rows, columns = rows[used].astype(np.float64), columns[used].astype(np.float64)
    mean = float(rows @ columns) / total
    deviation = np.eye(len(rows)) - columns[:, None] / total - rows[None, :] / total + mean / total
    variance = float(rows @ deviation**2 @ columns) / (total - 1)
    if variance < 1e-9:
        return 1.0
    correct = float((y_true == y_pred).sum())
    # The half is the continuity correction.
    return float(scipy.stats.norm.sf((correct - 0.5 - mean) / math.sqrt(variance)))


def _class_order(
    y_true: NDArray[np.int64], y_pred: NDArray[np.int64], classes: int
) -> tuple[tuple[int, ...] | None, float | None]:
    """Return an order of the outputs, and its held-out accuracy, if that is far better."""
    total = len(y_true)
    # Random halves, since labels may alternate.
    half = np.random.default_rng(0).permutation(total) % 2
    right = 0
    for fold in (0, 1):
        fitted, held_out = half == fold, half != fold
        order = _assignment(y_true[fitted], y_pred[fitted], classes)
        right += int((order[y_true[held_out]] == y_pred[held_out]).sum())
    gain = (right - int((y_true == y_pred).sum())) / total
    if gain <= max(GAIN, SIGMAS / math.sqrt(total)):
        return None, None
    return tuple(_assignment(y_true, y_pred, classes).tolist()), right / total


def _assignment(
    y_true: NDArray[np.int64], y_pred: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Assign an output to each class so that accuracy is highest."""
    cells = np.bincount(y_true * classes + y_pred, minlength=classes * classes)
    # Ties are broken in favour of the given order.
    table = cells.reshape(classes, classes) + 1e-3 * np.eye(classes)
    order: NDArray[np.int64] = scipy.optimize.linear_sum_assignment(table, maximize=True)[1]
    return order


def accuracy_lower_bound(accuracy: float, total: int) -> float:
    """Return the 1 % quantile of the accuracy on `total` samples, for a true `accuracy`.

    Example:
        >>> round(accuracy_lower_bound(0.9339, 1000), 3)
        0.915
    """
    return float(scipy.stats.binom.ppf(0.01, total, accuracy)) / total
