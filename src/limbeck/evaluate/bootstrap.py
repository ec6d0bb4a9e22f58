"""Bootstrap confidence intervals: percentile intervals from resampling with replacement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.core.measurement import Interval, Result
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.intervals import wilson

Counts = NDArray[np.float64]
Statistic = Callable[[Counts], NDArray[np.float64]]
LEVEL = 0.95
"""The confidence level of every interval."""

BLOCK = 2**19
"""Number of counts computed at once: 4 MB, which stay in a cache."""


class PairedEstimate(Result):
    """A paired estimate of student and teacher; `compare` takes its fields as arguments."""

    student: Estimate
    teacher: Estimate | None = None
    difference: Estimate | None = None


class Resamples:
    """Bootstrap resamples of a test set, shared by all metrics of an evaluation.

    A statistic maps sample counts, `[draws, samples]`, to one value per draw; for a mean this is
    one matrix product. `scipy.stats.bootstrap` resamples the values anew for each metric.

    The interval is the percentile interval, widened by the ratio of Student's t to the normal
    quantile, since resamples of few samples vary too little. Its coverage is nominal for means and
    other smooth statistics. For the calibration error, which is biased upwards, see
    `limbeck.evaluate.calibration.correction`; for shares of few samples use
    `limbeck.evaluate.bootstrap` or Wilson's interval, since the bootstrap of five correct samples
    has zero width.

    Args:
        samples: Number of samples.
        n_resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
        parts: Sizes of strata that are resampled separately, if the samples are several
            concatenated sets; their sum is `samples`.

    Example:
        >>> right = np.array([1.0] * 90 + [0.0] * 10)
        >>> found = Resamples(100, seed=0).estimate(lambda counts: counts @ right / 100)
        >>> found.value, round(found.interval.low, 2), round(found.interval.high, 2)
        (0.9, 0.84, 0.96)

    Source: Efron, Annals of Statistics 1979; Hesterberg, The American Statistician 2015 (the
    widening).
    """

    def __init__(
        self, samples: int, *, n_resamples: int = 1000, seed: int = 0, parts: tuple[int, ...] = ()
    ) -> None:
        self.samples = samples
        self.n_resamples = n_resamples
        self._seed = seed
        self._parts = parts or (samples,)

    @cached_property
    def _blocks(self) -> list[NDArray[np.uint16]]:
        random = np.random.default_rng(self._seed)
        size = max(1, BLOCK // self.samples)
        return [
            np.stack([self._draw(random) for _ in range(min(size, self.n_resamples - first))])
            for first in range(0, self.n_resamples, size)
        ]

    def _draw(self, random: np.random.Generator) -> NDArray[np.uint16]:
        drawn = [np.bincount(random.integers(n, size=n), minlength=n) for n in self._parts]
        return np.concatenate(drawn).astype(np.uint16)

    def counts(self) -> Iterator[Counts]:
        """Yield how often each sample was drawn, `[draws, samples]`, block by block."""
        for block in self._blocks:
            yield block.astype(np.float64)

    def distribution(self, statistic: Statistic) -> NDArray[np.float64]:
        """Compute a statistic per draw, `[draws]`, or several at once, `[draws, figures]`."""
        return np.concatenate([statistic(block) for block in self.counts()])

    def estimate(self, statistic: Statistic) -> Estimate:
        """Compute a statistic of the samples and its confidence interval."""
        return self.estimates(lambda counts: statistic(counts)[:, None])[0]

    def estimates(self, statistic: Statistic) -> list[Estimate]:
        """Compute several statistics, `[draws, figures]` per call, and their intervals."""
        values = statistic(np.ones((1, self.samples)))[0]
        drawn = self.distribution(statistic)
        return [self._estimate(*pair) for pair in zip(values, drawn.T, strict=True)]

    def means(self, values: NDArray[np.float64]) -> list[Estimate]:
        """Compute the mean of each column of `[samples, figures]`; infinite if a value is.

        Example:
            >>> first, second = Resamples(4).means(np.array([[1, 2], [3, 4], [5, 6], [7, 8.0]]))
            >>> first.value, second.value, first.interval.low < 4 < first.interval.high
            (4.0, 5.0, True)
        """
        return self.estimates(lambda counts: mean(counts, values))

    def paired(self, student: Statistic, teacher: Statistic | None) -> PairedEstimate:
        """Compute a statistic of both models and the paired difference, student less teacher."""
        if teacher is None:
            return PairedEstimate(student=self.estimate(student))

        def both(counts: Counts) -> NDArray[np.float64]:
            own, reference = student(counts), teacher(counts)
            with np.errstate(invalid="ignore"):
                # Equal infinities differ by zero.
                gap = np.where(own == reference, 0.0, own - reference)
            return np.stack([own, reference, gap], axis=1)

        one, other, difference = self.estimates(both)
        return PairedEstimate(student=one, teacher=other, difference=difference)

    def _estimate(self, value: float, drawn: NDArray[np.float64]) -> Estimate:
        drawn = drawn[~np.isnan(drawn)]
        if not len(drawn):
            return Estimate(value=float(value))
        tail = _widened((1 - LEVEL) / 2, self.samples)
        # Each end is one of the draws: a finite and an infinite draw cannot be interpolated.
        low, high = np.quantile(drawn, [tail, 1 - tail], method="inverted_cdf")
        interval = Interval(low=low, high=high, method="percentile bootstrap")
        return Estimate(value=float(value), interval=interval)


def mean(counts: Counts, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the mean of values per draw; a drawn infinite value makes it infinite.

    Args:
        counts: How often each sample was drawn, `[draws, samples]`.
        values: `[samples]` or `[samples, figures]`.

    Returns:
        `[draws]` or `[draws, figures]`; NaN for a draw without samples.

    Example:
        >>> mean(np.array([[1.0, 1.0], [2.0, 0.0]]), np.array([3.0, np.inf])).tolist()
        [inf, 3.0]
    """
    total = counts.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1))
    finite = np.isfinite(values)
    summed = counts @ np.where(finite, values, 0.0)
    if not finite.all():
        for sign in (np.inf, -np.inf):
            summed[counts @ (values == sign) > 0] += sign
        summed[counts @ np.isnan(values) > 0] = np.nan
    with np.errstate(invalid="ignore"):
        return np.asarray(summed / total)


def _widened(tail: float, samples: int) -> float:
    """Return the tail probability to cut at each end, reduced for small samples by Student's t."""
    if samples < 2:
        return 0.0
    reach = scipy.stats.t.ppf(tail, samples - 1) * math.sqrt(samples / (samples - 1))
    return float(scipy.stats.norm.cdf(reach))


def proportion(successes: int, total: int) -> Estimate:
    """Compute a proportion with Wilson's interval.

    Example:
        >>> proportion(4, 4).value, proportion(4, 4).interval.low < 0.6
        (1.0, True)
    """
    return Estimate(value=successes / total, interval=wilson(successes, total))


def share(hits: NDArray[np.float64] | NDArray[np.bool_]) -> Estimate:
    """Compute the share of hits, `[samples]` of 0 and 1, with Wilson's interval."""
    return proportion(int(hits.sum()), len(hits))


def paired_difference(student: NDArray[np.float64], teacher: NDArray[np.float64]) -> Estimate:
    r"""Compute the paired difference of two proportions, with Bonett and Price's interval.

    $$\tilde d \pm z \sqrt{\frac{\tilde s - \tilde d^2}{n + 2}}, \qquad
      \tilde d = \frac{\sum_i d_i}{n + 2}, \; \tilde s = \frac{\sum_i d_i^2 + 2}{n + 2}$$

    with d the difference per sample: two samples are added, one that only the student predicts
    correctly and one that only the teacher does, so that five samples on which both are correct
    do not have an interval of zero width. For values of 0 and 1 it is the published interval;
    fractions are allowed, such as correct under two of five corruptions.

    Args:
        student: From 0 to 1 per sample, `[samples]`.
        teacher: The same of the teacher.

    Example:
        >>> correct = np.ones(5)
        >>> paired_difference(correct, correct).interval.low < -0.3
        True

    Source: Bonett and Price, British Journal of Mathematical and Statistical Psychology 2012.
    """
    n = len(student)
    gaps = student - teacher
    centre = float(gaps.sum()) / (n + 2)
    spread = (float((gaps**2).sum()) + 2) / (n + 2) - centre**2
    half = float(scipy.stats.norm.ppf(0.5 + LEVEL / 2)) * math.sqrt(spread / (n + 2))
    interval = Interval(
        low=max(-1.0, centre - half), high=min(1.0, centre + half), method="Bonett-Price"
    )
    return Estimate(value=float(gaps.mean()), interval=interval)


def shares(student: NDArray[np.float64], teacher: NDArray[np.float64] | None) -> PairedEstimate:
    """Compute a share of both models and its paired difference: `[samples]` of 0 and 1 each."""
    if teacher is None:
        return PairedEstimate(student=share(student))
    return PairedEstimate(
        student=share(student),
        teacher=share(teacher),
        difference=paired_difference(student, teacher),
    )
