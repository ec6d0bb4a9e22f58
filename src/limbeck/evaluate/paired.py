"""Confidence interval of a paired difference of proportions (Bonett-Price)."""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.evaluate.bootstrap import Beside
from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Interval, wilson


def share(hits: NDArray[np.float64]) -> Estimate:
    """Compute the share of hits, `[samples]` of 0 and 1, with Wilson's interval.

    Example:
        >>> share(np.array([1.0, 1.0, 1.0, 1.0])).interval.low < 0.6
        True
    """
    return Estimate(value=float(hits.mean()), interval=wilson(int(hits.sum()), len(hits)))


def paired_difference(student: NDArray[np.float64], teacher: NDArray[np.float64]) -> Estimate:
    r"""Compute the paired difference of two proportions, with Bonett and Price's interval.

    $$\tilde d \pm z \sqrt{\frac{\tilde s - \tilde d^2}{n + 2}}, \qquad
      \tilde d = \frac{\sum_i d_i}{n + 2}, \; \tilde s = \frac{\sum_i d_i^2 + 2}{n + 2}$$

    with d the difference per sample: two samples are added, in one of which only the student is
    correct, in the other only the teacher. A bootstrap of five samples on which both are correct
    would have zero width; this interval has not. For values of 0 and 1 it is the published
    interval; fractions are allowed, such as correct under two of five corruptions.

    Args:
        student: From 0 to 1 per sample, `[samples]`.
        teacher: The same of the teacher.

    Example:
        >>> both = np.ones(5)
        >>> paired_difference(both, both).interval.low < -0.3
        True

    Source: Bonett and Price, British Journal of Mathematical and Statistical Psychology 2012.
    """
    n, level = len(student), 0.95
    gaps = student - teacher
    centre = float(gaps.sum()) / (n + 2)
    spread = (float((gaps**2).sum()) + 2) / (n + 2) - centre**2
    half = float(scipy.stats.norm.ppf(0.5 + level / 2)) * math.sqrt(spread / (n + 2))
    interval = Interval(
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
        level=level,
        method="Bonett-Price",
    )
    return Estimate(value=float(gaps.mean()), interval=interval)


def shares(student: NDArray[np.float64], teacher: NDArray[np.float64] | None) -> Beside:
    """Compute a share of both models and its paired difference: `[samples]` of 0 and 1 each."""
    if teacher is None:
        return Beside(student=share(student))
    return Beside(
        student=share(student),
        teacher=share(teacher),
        difference=paired_difference(student, teacher),
    )
