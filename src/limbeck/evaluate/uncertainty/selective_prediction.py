"""Selective prediction: the risk-coverage curve, and deferral of low-confidence predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import Counts, Resamples, Statistic, mean, paired_difference, share
from limbeck.evaluate.calibration.metrics import top
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.metrics import Ranking, aurc, auroc, entropies

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


class SelectivePrediction(Result):
    """The uncertainty metrics of one model.

    Attributes:
        entropy: Entropy of correct and of wrong predictions.
        curve: The risk-coverage curve.
        aurc: The area under the risk-coverage curve (AURC).
        best_aurc: The AURC if every error had less confidence than every correct prediction.
    """

    entropy: EntropyByCorrectness
    curve: tuple[CoveragePoint, ...]
    aurc: Estimate
    best_aurc: float


@dataclass(frozen=True)
class SelectivePredictor:
    """The predictions of one model and their uncertainty, `[samples]` each.

    Attributes:
        log_p: Log-probabilities, `[samples, classes]`.
        confidence: The maximum softmax probability.
        right: 1 where the prediction is correct, 0 where not.
        entropy: In nats.
    """

    log_p: Values
    confidence: Values
    right: Values
    entropy: Values

    @classmethod
    def of(cls, log_p: Values, labels: NDArray[np.int64]) -> SelectivePredictor:
        """Build it from log-probabilities, `[samples, classes]`, and labels."""
        return cls(log_p, *top(log_p, labels), entropies(log_p))

    @property
    def failure_detection_auroc(self) -> Statistic:
        """Return the failure-detection AUROC by entropy; NaN if no or all predictions are wrong."""
        ranking = Ranking.of(-self.entropy)
        return lambda counts: auroc(ranking, counts, self.right)

    @property
    def aurc(self) -> Statistic:
        """Return the statistic of the area under the risk-coverage curve (AURC)."""
        ranking = Ranking.of(self.confidence)
        return lambda counts: aurc(ranking, counts, 1 - self.right)

    def summary(self, area: Estimate, *, resamples: Resamples) -> SelectivePrediction:
        """Build the uncertainty metrics, given the AURC estimate."""
        best = Ranking.of(self.right + self.confidence)
        wrong = 1 - self.right
        return SelectivePrediction(
            entropy=entropy_by_correctness(
                self.entropy, self.right, classes=self.log_p.shape[1], resamples=resamples
            ),
            curve=coverage_risk(self.confidence, wrong),
            aurc=area,
            best_aurc=float(aurc(best, np.ones((1, len(wrong))), wrong)[0]),
        )
