"""Predictive entropy of correct and of wrong predictions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.bootstrap import Counts, Resamples, mean
from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result

Values = NDArray[np.float64]


class EntropyByCorrectness(Result):
    """The entropy of a model's predictions, in nats, split by correctness.

    Attributes:
        edges: The edges of the histogram, `[bars + 1]`.
        right: Number of correct predictions per bar.
        wrong: Number of wrong predictions per bar.
        mean_right: Mean entropy of the correct predictions; None if there are none.
        mean_wrong: Mean entropy of the wrong predictions; None if there are none.
    """

    edges: tuple[float, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    mean_right: Estimate | None
    mean_wrong: Estimate | None


def entropy_by_correctness(
    entropy: Values, right: Values, *, classes: int, resamples: Resamples, bars: int = 20
) -> EntropyByCorrectness:
    """Compute the histogram and the mean of entropies, split by correctness.

    Args:
        entropy: Of each prediction, `[samples]` in nats.
        right: 1 for a correct prediction, 0 for an error, `[samples]`.
        classes: Number of classes; its logarithm is the maximum entropy.
        resamples: The bootstrap resamples.
        bars: Number of bars of the histogram.

    Example:
        >>> two = Resamples(2)
        >>> found = entropy_by_correctness(
        ...     np.array([0.1, 0.6]), np.array([1.0, 0.0]), classes=2, resamples=two, bars=2
        ... )
        >>> found.right, found.wrong, found.mean_wrong.value
        ((1, 0), (0, 1), 0.6)
    """
    edges = np.linspace(0, math.log(classes), bars + 1) if classes > 1 else np.linspace(0, 1, 2)
    # Rounding may leave the entropy of equal probabilities just above the last edge.
    inside = np.clip(entropy, edges[0], edges[-1])
    kinds = np.stack([right, 1 - right], axis=1)

    def within(counts: Counts) -> Values:
        with np.errstate(invalid="ignore"):
            return mean(counts, kinds * entropy[:, None]) / mean(counts, kinds)

    means = [
        None if math.isnan(estimate.value) else estimate for estimate in resamples.estimates(within)
    ]
    return EntropyByCorrectness(
        edges=tuple(edges.tolist()),
        right=tuple(np.histogram(inside[right == 1], edges)[0].tolist()),
        wrong=tuple(np.histogram(inside[right == 0], edges)[0].tolist()),
        mean_right=means[0],
        mean_wrong=means[1],
    )
