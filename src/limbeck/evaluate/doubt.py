"""Selective prediction of one model: entropy by correctness, AURC, failure-detection AUROC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.bootstrap import Resamples, Statistic
from limbeck.evaluate.deferral import CoveragePoint, coverage_risk
from limbeck.evaluate.entropy import EntropyByCorrectness, entropy_by_correctness
from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result
from limbeck.evaluate.probabilities import entropies
from limbeck.evaluate.ranking import Ranking, aurc, auroc
from limbeck.evaluate.reliability import top

Values = NDArray[np.float64]


class Doubt(Result):
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
class Doubter:
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
    def of(cls, log_p: Values, labels: NDArray[np.int64]) -> Doubter:
        """Build it from log-probabilities, `[samples, classes]`, and labels."""
        return cls(log_p, *top(log_p, labels), entropies(log_p))

    @property
    def errors_told(self) -> Statistic:
        """Return the failure-detection AUROC by entropy; NaN if no or all predictions are wrong."""
        ranking = Ranking.of(-self.entropy)
        return lambda counts: auroc(ranking, counts, self.right)

    @property
    def risk(self) -> Statistic:
        """Return the statistic of the area under the risk-coverage curve (AURC)."""
        ranking = Ranking.of(self.confidence)
        return lambda counts: aurc(ranking, counts, 1 - self.right)

    def doubt(self, area: Estimate, *, resamples: Resamples) -> Doubt:
        """Build the uncertainty metrics, given the AURC estimate."""
        best = Ranking.of(self.right + self.confidence)
        wrong = 1 - self.right
        return Doubt(
            entropy=entropy_by_correctness(
                self.entropy, self.right, classes=self.log_p.shape[1], resamples=resamples
            ),
            curve=coverage_risk(self.confidence, wrong),
            aurc=area,
            best_aurc=float(aurc(best, np.ones((1, len(wrong))), wrong)[0]),
        )
