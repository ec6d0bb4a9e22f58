"""What a model answers itself and what it hands on: risk by coverage, and deferring the unsure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result
from limbeck.evaluate.paired import paired_difference, share
from limbeck.evaluate.ranking import Ranking

Values = NDArray[np.float64]


class CoveragePoint(Result):
    """Where the surest `coverage` of the samples are answered: the share of errors among them."""

    coverage: float
    risk: float


class Deferral(Result):
    """The student answers what it is sure of and hands the rest on.

    Attributes:
        coverage: The share that it was to answer itself, by which the threshold was chosen.
        threshold: The confidence below which it hands on, chosen on validation samples.
        answered: The share that it did answer itself, of the test samples.
        alone: Its accuracy on those; none if there are none.
        with_teacher: The accuracy of all if the teacher answers the rest.
        against_teacher: That less the accuracy of the teacher alone.
        with_person: The accuracy of all if a person who is always right answers the rest.
    """

    coverage: float
    threshold: float
    answered: Estimate
    alone: Estimate | None
    with_teacher: Estimate | None
    against_teacher: Estimate | None
    with_person: Estimate


def coverage_risk(
    confidence: Values, wrong: Values, *, points: int = 101
) -> tuple[CoveragePoint, ...]:
    """Give the curve of risk by coverage, from the surest sample to all.

    Args:
        confidence: How sure each answer is, `[samples]`.
        wrong: 1 for an error, 0 for a right answer, `[samples]`.
        points: How many points at most; equally sure samples are answered together.

    Example:
        >>> curve = coverage_risk(np.array([0.9, 0.8]), np.array([0.0, 1.0]))
        >>> [(point.coverage, point.risk) for point in curve]
        [(0.5, 0.0), (1.0, 0.5)]

    Source: El-Yaniv and Wiener, JMLR 2010.
    """
    ranking = Ranking.of(confidence)
    counts = np.ones((1, len(wrong)))
    [answered], [errors] = ranking.cumulated(counts, np.ones_like(wrong), wrong)
    steps = len(answered)
    shown = np.unique(np.linspace(0, steps - 1, min(points, steps)).round().astype(int))
    return tuple(
        CoveragePoint(coverage=answered[k] / len(wrong), risk=errors[k] / answered[k])
        for k in shown
    )


def threshold_for(confidence: Values, coverage: float) -> float:
    """Find the confidence that this share of the samples, or a little more, reaches.

    Args:
        confidence: How sure each answer is, of samples that no figure is taken from.
        coverage: The share to be answered.

    Example:
        >>> threshold_for(np.array([0.2, 0.4, 0.6, 0.8]), 0.5)
        0.6
    """
    return float(np.quantile(confidence, 1 - coverage, method="higher"))


def threshold_to_match(confidence: Values, student: Values, teacher: Values) -> float:
    """Find the lowest confidence from which student and teacher together are no worse than it.

    Args:
        confidence: How sure the student is, of samples that no figure is taken from, `[samples]`.
        student: 1 where the student is right, 0 where not.
        teacher: The same of the teacher.

    Returns:
        The threshold; infinity if all has to be handed on.

    Example:
        >>> threshold_to_match(np.array([0.9, 0.5]), np.array([1.0, 0.0]), np.array([1.0, 1.0]))
        0.9
    """
    ranking = Ranking.of(confidence)
    [[gained]] = ranking.cumulated(np.ones((1, len(confidence))), student - teacher)
    enough = np.flatnonzero(gained >= 0)
    return float(confidence[ranking.order[ranking.last[enough[-1]]]]) if len(enough) else np.inf


def defer(
    confidence: Values,
    student: Values,
    teacher: Values | None,
    *,
    coverage: float,
    threshold: float,
) -> Deferral:
    """Let the student answer what it is sure of, and hand on the rest.

    Args:
        confidence: How sure the student is of each test sample, `[samples]`.
        student: 1 where the student is right, 0 where not, `[samples]`.
        teacher: The same of the teacher.
        coverage: The share that the threshold was chosen for.
        threshold: From which confidence on the student answers.

    Source: Madras et al., NeurIPS 2018 (arXiv:1711.06664); Geifman and El-Yaniv, NeurIPS 2017.
    """
    kept = confidence >= threshold
    together = None if teacher is None else np.where(kept, student, teacher)
    return Deferral(
        coverage=coverage,
        threshold=threshold,
        answered=share(kept.astype(np.float64)),
        alone=share(student[kept]) if kept.any() else None,
        with_teacher=None if together is None else share(together),
        against_teacher=None
        if together is None or teacher is None
        else paired_difference(together, teacher),
        with_person=share(np.where(kept, student, 1.0)),
    )
