"""Selective prediction: the risk-coverage curve, and deferral of low-confidence predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import Counts, Resamples, Statistic, mean, paired_difference, share
from limbeck.evaluate.calibration.metrics import top
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.metrics import Ranking, aurc, auroc, entropies, log_probabilities
from limbeck.export.predictor import Predictions

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

    `wrong` is 1 for an error, 0 for a correct prediction. Samples of equal confidence are covered
    together; at most `points` points are returned.

    Example:
        >>> curve = coverage_risk(np.array([0.9, 0.8]), np.array([0.0, 1.0]))
        >>> [(point.coverage, point.risk) for point in curve]
        [(0.5, 0.0), (1.0, 0.5)]

    Source: El-Yaniv and Wiener, JMLR 2010.
    """
    counts = np.ones((1, len(wrong)))
    [covered], [errors] = Ranking.of(confidence).cumulated(counts, np.ones_like(wrong), wrong)
    steps = len(covered)
    selected = np.unique(np.linspace(0, steps - 1, min(points, steps)).round().astype(int))
    return tuple(
        CoveragePoint(coverage=covered[k] / len(wrong), risk=errors[k] / covered[k])
        for k in selected
    )


def threshold_for(confidence: Values, coverage: float) -> float:
    """Compute the threshold of validation confidences for a coverage, reached or slightly exceeded.

    Example:
        >>> threshold_for(np.array([0.2, 0.4, 0.6, 0.8]), 0.5)
        0.6
    """
    return float(np.quantile(confidence, 1 - coverage, method="higher"))


def threshold_to_match(confidence: Values, student: Values, teacher: Values) -> float:
    """Compute the lowest threshold at which the pair's accuracy is no less than the teacher's.

    `student` and `teacher` are 1 where the model is correct, 0 where not, on validation samples;
    `confidence` is the student's. Infinity if every sample has to be deferred.

    Returns:
        The threshold; infinity if every sample has to be deferred.

    Example:
        >>> threshold_to_match(np.array([0.9, 0.5]), np.array([1.0, 0.0]), np.array([1.0, 1.0]))
        0.9
    """
    ranking = Ranking.of(confidence)
    [[gain]] = ranking.cumulated(np.ones((1, len(confidence))), student - teacher)
    enough = np.flatnonzero(gain >= 0)
    return float(confidence[ranking.order[ranking.last[enough[-1]]]]) if len(enough) else np.inf


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
    """Compute the histogram, up to log(classes), and the mean of entropies, split by correctness.

    Example:
        >>> entropy, right = np.array([0.1, 0.6]), np.array([1.0, 0.0])
        >>> two = Resamples(2)
        >>> found = entropy_by_correctness(entropy, right, classes=2, resamples=two, bars=2)
        >>> found.right, found.wrong, found.mean_wrong.value
        ((1, 0), (0, 1), 0.6)
    """
    edges = np.linspace(0, math.log(classes), bars + 1) if classes > 1 else np.linspace(0, 1, 2)
    # Rounding may leave the entropy of equal probabilities just above the last edge.
    clipped = np.clip(entropy, edges[0], edges[-1])
    groups = np.stack([right, 1 - right], axis=1)

    def group_means(counts: Counts) -> Values:
        with np.errstate(invalid="ignore"):
            return mean(counts, groups * entropy[:, None]) / mean(counts, groups)

    mean_right, mean_wrong = (
        None if math.isnan(one.value) else one for one in resamples.estimates(group_means)
    )
    return EntropyByCorrectness(
        edges=tuple(edges.tolist()),
        right=tuple(np.histogram(clipped[right == 1], edges)[0].tolist()),
        wrong=tuple(np.histogram(clipped[right == 0], edges)[0].tolist()),
        mean_right=mean_right,
        mean_wrong=mean_wrong,
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
    def of(cls, predictions: Predictions) -> SelectivePredictor:
        """Compute log-probabilities, confidence, correctness and entropy of predictions."""
        log_p = log_probabilities(predictions.logits)
        return cls(log_p, *top(log_p, predictions.labels), entropies(log_p))

    @property
    def failure_detection_auroc(self) -> Statistic:
        """Return the failure-detection AUROC by entropy; NaN if no or all predictions are wrong."""
        return partial(auroc, Ranking.of(-self.entropy), positive=self.right)

    @property
    def aurc(self) -> Statistic:
        """Return the statistic of the area under the risk-coverage curve (AURC)."""
        return partial(aurc, Ranking.of(self.confidence), wrong=1 - self.right)

    def summary(self, aurc_estimate: Estimate, *, resamples: Resamples) -> SelectivePrediction:
        """Build the uncertainty metrics, given the AURC estimate."""
        errors_last = Ranking.of(self.right + self.confidence)
        wrong = 1 - self.right
        return SelectivePrediction(
            entropy=entropy_by_correctness(
                self.entropy, self.right, classes=self.log_p.shape[1], resamples=resamples
            ),
            curve=coverage_risk(self.confidence, wrong),
            aurc=aurc_estimate,
            best_aurc=float(aurc(errors_last, np.ones((1, len(wrong))), wrong)[0]),
        )


def defer(
    student: SelectivePredictor,
    teacher: SelectivePredictor | None,
    *,
    coverage: float,
    threshold: float,
) -> Deferral:
    """Measure selective prediction: the student predicts confident samples and defers the rest.

    The threshold, the lowest confidence at which the student predicts, was chosen for the coverage.

    Source: Madras et al., NeurIPS 2018 (arXiv:1711.06664); Geifman and El-Yaniv, NeurIPS 2017.
    """
    covered = student.confidence >= threshold
    with_teacher = against_teacher = None
    if teacher is not None:
        combined = np.where(covered, student.right, teacher.right)
        with_teacher = share(combined)
        against_teacher = paired_difference(combined, teacher.right)
    return Deferral(
        coverage=coverage,
        threshold=threshold,
        answered=share(covered.astype(np.float64)),
        alone=share(student.right[covered]) if covered.any() else None,
        with_teacher=with_teacher,
        against_teacher=against_teacher,
        with_person=share(np.where(covered, student.right, 1.0)),
    )
