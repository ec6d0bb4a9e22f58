"""Overlap of the confidence intervals of student and teacher (Jaccard index)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Interval, Result
from limbeck.evaluate.bootstrap import PairedEstimate, Resamples, mean
from limbeck.evaluate.calibration.correction import corrected_errors
from limbeck.evaluate.calibration.metrics import gaps, top
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.metrics import losses

Values = NDArray[np.float64]
Metric = Callable[[Values, NDArray[np.int64]], Values]


class IntervalOverlap(Result):
    """A metric of both models, and the overlap of its confidence intervals.

    Attributes:
        figure: The metric.
        student: The student's.
        teacher: The teacher's.
        overlap: Intersection over union of the intervals: 0 if disjoint, 1 if equal.
        width: Ratio of the student's interval width to the teacher's; None if that is a point.
    """

    figure: str
    student: Estimate
    teacher: Estimate
    overlap: float
    width: float | None


def overlap(one: Interval, other: Interval) -> float:
    r"""Compute the Jaccard index of two intervals: intersection over union.

    $$\frac{|A \cap B|}{|A \cup B|}$$

    Example:
        >>> first = Interval(low=0.0, high=2.0, method="by hand")
        >>> overlap(first, Interval(low=1.0, high=3.0, method="by hand"))
        0.3333333333333333

    Source: Jaccard, Bulletin de la Société Vaudoise des Sciences Naturelles 1901.
    """
    if (one.low, one.high) == (other.low, other.high):
        return 1.0
    both = max(0.0, min(one.high, other.high) - max(one.low, other.low))
    either = (one.high - one.low) + (other.high - other.low) - both
    return both / either if 0 < either < math.inf else 0.0


def interval_overlaps(
    student: Values, teacher: Values, labels: NDArray[np.int64], *, resamples: Resamples
) -> tuple[IntervalOverlap, ...]:
    """Compare the intervals of accuracy, likelihood and calibration error, from the same resamples.

    Student and teacher are given by their log-probabilities, `[samples, classes]`.
    """

    def paired(metric: Metric) -> PairedEstimate:
        one, other = (partial(mean, values=metric(log_p, labels)) for log_p in (student, teacher))
        return resamples.paired(one, other)

    estimates = {
        "accuracy": paired(lambda log_p, labels: top(log_p, labels)[1]),
        "negative log-likelihood": paired(losses),
        "calibration error": corrected_errors(
            resamples, gaps(student, labels), gaps(teacher, labels)
        ),
    }
    return tuple(
        _compare(name, both.student, both.teacher)
        for name, both in estimates.items()
        if both.teacher is not None
    )


def _compare(figure: str, student: Estimate, teacher: Estimate) -> IntervalOverlap:
    one, other = student.interval, teacher.interval
    assert one is not None
    assert other is not None
    width = other.high - other.low
    return IntervalOverlap(
        figure=figure,
        student=student,
        teacher=teacher,
        overlap=overlap(one, other),
        width=(one.high - one.low) / width if 0 < width < math.inf else None,
    )
