"""How unsure a model is where it is right, and where it is wrong."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.bootstrap import Counts, Resamples, mean
from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result

Values = NDArray[np.float64]


class EntropyByCorrectness(Result):
    """The entropy of a model's answers, in nats, of the right ones and of the wrong ones.

    Attributes:
        edges: Where the bars of the histogram begin and end: `[bars + 1]`.
        right: How many right answers each bar holds.
        wrong: How many wrong answers each bar holds.
        mean_right: Mean entropy of the right answers; none if there are none.
        mean_wrong: Mean entropy of the wrong answers; none if there are none.
    """

    edges: tuple[float, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    mean_right: Estimate | None
    mean_wrong: Estimate | None


def entropy_by_correctness(
    entropy: Values, right: Values, *, classes: int, resamples: Resamples, bars: int = 20
) -> EntropyByCorrectness:
    """Divide the entropies of answers by whether the answers are right.

    Args:
        entropy: Of each answer, `[samples]` in nats.
        right: 1 for a right answer, 0 for an error, `[samples]`.
        classes: How many classes there are; their logarithm is the most there can be.
        resamples: The draws.
        bars: How many bars the histogram has.

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
