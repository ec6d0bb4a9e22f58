"""Where one model is unsure: the entropy of right and wrong answers, and risk by coverage."""

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
    """Where one model is unsure.

    Attributes:
        entropy: Of right and of wrong answers.
        curve: The share of errors among the surest answers, by how many are given.
        aurc: The area under the curve.
        best_aurc: What it were if every error were less sure than every right answer.
    """

    entropy: EntropyByCorrectness
    curve: tuple[CoveragePoint, ...]
    aurc: Estimate
    best_aurc: float


@dataclass(frozen=True)
class Doubter:
    """What one model says of some samples, `[samples]` each.

    Attributes:
        log_p: Log-probabilities, `[samples, classes]`.
        confidence: The largest probability.
        right: 1 where it is right, 0 where not.
        entropy: In nats.
    """

    log_p: Values
    confidence: Values
    right: Values
    entropy: Values

    @classmethod
    def of(cls, log_p: Values, labels: NDArray[np.int64]) -> Doubter:
        """Take it from log-probabilities, `[samples, classes]`, and the right answers."""
        return cls(log_p, *top(log_p, labels), entropies(log_p))

    @property
    def errors_told(self) -> Statistic:
        """How often an error has more entropy than a right answer: AUROC, NaN if one is missing."""
        ranking = Ranking.of(-self.entropy)
        return lambda counts: auroc(ranking, counts, self.right)

    @property
    def risk(self) -> Statistic:
        """The area under risk by coverage."""
        ranking = Ranking.of(self.confidence)
        return lambda counts: aurc(ranking, counts, 1 - self.right)

    def doubt(self, area: Estimate, *, resamples: Resamples) -> Doubt:
        """Say where it is unsure, beside the area under risk by coverage."""
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
