"""An interval for the difference of two shares of the same samples, honest for few of them too."""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.evaluate.bootstrap import Beside
from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Interval, wilson


def share(hits: NDArray[np.float64]) -> Estimate:
    """Give the share of hits, `[samples]` of 0 and 1, with Wilson's interval.

    Example:
        >>> share(np.array([1.0, 1.0, 1.0, 1.0])).interval.low < 0.6
        True
    """
    return Estimate(value=float(hits.mean()), interval=wilson(int(hits.sum()), len(hits)))


def paired_difference(student: NDArray[np.float64], teacher: NDArray[np.float64]) -> Estimate:
    r"""Give the difference of two shares of the same samples, with Bonett and Price's interval.

    $$\tilde d \pm z \sqrt{\frac{\tilde s - \tilde d^2}{n + 2}}, \qquad
      \tilde d = \frac{\sum_i d_i}{n + 2}, \; \tilde s = \frac{\sum_i d_i^2 + 2}{n + 2}$$

    with d the difference of each sample: two more samples are reckoned with, in one of which only
    the student is right, in the other only the teacher. A bootstrap of five samples on which both
    are right would say that they differ by exactly nothing; this does not. For shares of 0 and 1 it
    is the published interval; samples may count in part, such as right under two of five damages.

    Args:
        student: From 0 to 1 a sample, `[samples]`.
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
    """Give a share of both models beside each other: `[samples]` of 0 and 1 each."""
    if teacher is None:
        return Beside(student=share(student))
    return Beside(
        student=share(student),
        teacher=share(teacher),
        difference=paired_difference(student, teacher),
    )
