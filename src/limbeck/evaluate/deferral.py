"""Selective prediction: the risk-coverage curve, and deferral of low-confidence predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result
from limbeck.evaluate.paired import paired_difference, share
from limbeck.evaluate.ranking import Ranking

Values = NDArray[np.float64]


class CoveragePoint(Result):
    """A point of the risk-coverage curve: the error rate on the most confident samples."""

    coverage: float
    risk: float


class Deferral(Result):
    """The result of selective prediction with deferral of the remaining samples.

    Attributes:
        coverage: The target coverage, by which the threshold was chosen.
        threshold: The confidence below which a sample is deferred, chosen on validation samples.
        answered: The coverage on the test samples.
        alone: The student's accuracy on the covered samples; None if there are none.
        with_teacher: The accuracy on all samples if the teacher predicts the rest.
        against_teacher: `with_teacher` less the accuracy of the teacher alone.
        with_person: The accuracy on all samples if an error-free person predicts the rest.
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
    """Compute the risk-coverage curve, from the most confident sample to all.

    Args:
        confidence: The confidence of each prediction, `[samples]`.
        wrong: 1 for an error, 0 for a correct prediction, `[samples]`.
        points: Largest number of points; samples of equal confidence are covered together.

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
    """Compute the confidence threshold for a coverage, reached exactly or slightly exceeded.

    Args:
        confidence: The confidence of each prediction, on samples that no metric is computed from.
        coverage: The target coverage.

    Example:
        >>> threshold_for(np.array([0.2, 0.4, 0.6, 0.8]), 0.5)
        0.6
    """
    return float(np.quantile(confidence, 1 - coverage, method="higher"))


def threshold_to_match(confidence: Values, student: Values, teacher: Values) -> float:
    """Compute the lowest threshold at which the pair's accuracy is no less than the teacher's.

    Args:
        confidence: The student's, on samples that no metric is computed from, `[samples]`.
        student: 1 where the student is correct, 0 where not.
        teacher: The same of the teacher.

    Returns:
        The threshold; infinity if every sample has to be deferred.

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
    """Measure selective prediction: the student predicts confident samples and defers the rest.

    Args:
        confidence: The student's confidence on each test sample, `[samples]`.
        student: 1 where the student is correct, 0 where not, `[samples]`.
        teacher: The same of the teacher.
        coverage: The coverage that the threshold was chosen for.
        threshold: The lowest confidence at which the student predicts.

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
