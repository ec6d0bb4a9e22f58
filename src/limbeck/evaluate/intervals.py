"""Confidence intervals: Wilson's for a proportion, Student's for a mean over seeds or folds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy  # its parts load when they are used

from limbeck.core.measurement import Interval, Result


class Summary(Result):
    """A value measured per seed: all values, their mean, and Student's interval of the mean.

    With one seed there is no interval.
    """

    mean: float
    interval: Interval | None
    values: tuple[float, ...]


def wilson(successes: int, total: int, *, level: float = 0.95) -> Interval:
    r"""Compute Wilson's score interval of a proportion.

    $$\frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n}$$

    Args:
        successes: Number of successful trials.
        total: Number of trials, at least one.
        level: The confidence level, between 0 and 1.

    Example:
        >>> print(wilson(98, 100))
        [0.9300, 0.9945]

    Source: Wilson, JASA 1927.
    """
    interval = scipy.stats.binomtest(successes, total).proportion_ci(level, method="wilson")
    return Interval(
        low=float(interval.low), high=float(interval.high), level=level, method="Wilson score"
    )


def summarize(
    values: Sequence[float],
    *,
    level: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Summary:
    r"""Compute the mean of one value per seed, and its Student's interval.

    $$\bar x \pm t_{n-1}\, s/\sqrt n$$

    Args:
        values: One value per seed, at least one.
        level: The confidence level, between 0 and 1.
        bounds: The range of possible values; the interval is clipped to it. A share lies in (0, 1).

    Example:
        >>> summarize([0.97, 0.98, 0.99]).mean
        0.98
        >>> summarize([0.97]).interval is None
        True
    """
    numbers = tuple(map(float, values))
    mean, interval = float(np.mean(numbers)), None
    if len(numbers) > 1:
        # Not scipy's `t.interval`, which is NaN for equal values.
        half = float(
            scipy.stats.t.ppf(0.5 + level / 2, len(numbers) - 1) * scipy.stats.sem(numbers)
        )
        interval = Interval(
            low=max(bounds[0], mean - half),
            high=min(bounds[1], mean + half),
            level=level,
            method="Student t over seeds",
        )
    return Summary(mean=mean, interval=interval, values=numbers)


def summarize_folds(
    values: Sequence[float],
    *,
    folds: int,
    level: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Summary:
    r"""Compute the mean of one value per fold, and its corrected Student's interval.

    $$\bar x \pm t_{n-1}\, s \sqrt{\frac1n + \frac{1}{k-1}}$$

    The training rows of two folds overlap, so that the folds are not independent: the variance has
    the ratio of test to training rows, 1 / (k − 1), added.

    Args:
        values: One value for each of n folds, at least one.
        folds: The number k of all folds.
        level: The confidence level, between 0 and 1.
        bounds: The range of possible values; the interval is clipped to it.

    Example:
        >>> summarize_folds([0.97, 0.98, 0.99], folds=3).interval.method
        'corrected Student t over folds'

    Source: Nadeau and Bengio 2003, "Inference for the generalization error".
    """
    plain = summarize(values, level=level)
    if plain.interval is None:
        return plain
    # Student's over independent values has the factor 1 / n alone.
    half = (plain.interval.high - plain.mean) * math.sqrt(1 + len(values) / (folds - 1))
    interval = Interval(
        low=max(bounds[0], plain.mean - half),
        high=min(bounds[1], plain.mean + half),
        level=level,
        method="corrected Student t over folds",
    )
    return Summary(mean=plain.mean, interval=interval, values=plain.values)
