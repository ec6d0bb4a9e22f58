"""Detection of model extraction queries against benign ones."""

from __future__ import annotations

import numpy as np
import scipy
from scipy.spatial import distance

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.metrics import Ranking, auroc
from limbeck.evaluate.model_extraction.attacker import Array, QueryResult

FALSE_ALARMS = 0.05
"""The false positive rate on benign queries at which the threshold is set."""

POINTS = 21
"""Number of points of the ROC curve."""


class Detection(Result):
    """The detection metrics of one attack strategy.

    Attributes:
        auc: The AUROC: the probability that an attacker's query scores above a benign one.
        false_positive_rate: Points of the ROC curve: the false positive rates on benign queries.
        true_positive_rate: The true positive rate on the attacker's queries at each of these.
        flagged: The true positive rate at the threshold set on other benign queries.
        flagged_benign: The false positive rate at it.
    """

    strategy: str
    auc: Estimate
    false_positive_rate: tuple[float, ...]
    true_positive_rate: tuple[float, ...]
    flagged: float
    flagged_benign: float


class Detector:
    r"""A detector that scores queries by their distance from benign ones.

    A query has two features: the logarithm of the distance to the nearest benign one, and the
    entropy of the prediction. The score is the squared Mahalanobis distance to benign queries.

    $$s(x) = (z - \mu)^\top \Sigma^{-1} (z - \mu), \qquad
      z = (\log d(x),\; H(p(\cdot \mid x)))$$

    Args:
        benign: Benign queries, at least two, not among those to be scored.

    Source: Juuti et al., EuroS&P 2019 (arXiv:1805.02628), for distances; Lee et al., NeurIPS 2018
    (arXiv:1807.03888), for the score.
    """

    def __init__(self, benign: QueryResult) -> None:
        self._benign = benign.features
        distances = distance.cdist(benign.features, benign.features)
        np.fill_diagonal(distances, np.inf)
        # The logarithm of a distance of zero has to be finite.
        self._least_distance = 1e-3 * float(np.median(distances.min(axis=1))) or 1e-12
        features = self._features(distances, benign)
        self._mean = features.mean(axis=0)
        self._precision = np.linalg.inv(np.cov(features.T) + 1e-6 * np.eye(2))
        self.threshold = float(np.quantile(self._mahalanobis(features), 1 - FALSE_ALARMS))

    def scores(self, queried: QueryResult) -> Array:
        """Compute one score per query, `[n]`; higher is less like a benign one."""
        distances = distance.cdist(queried.features, self._benign)
        return self._mahalanobis(self._features(distances, queried))

    def _features(self, distances: Array, queried: QueryResult) -> Array:
        nearest = np.log(np.maximum(distances.min(axis=1), self._least_distance))
        entropy = scipy.special.entr(queried.probabilities).sum(axis=1)
        return np.stack([nearest, entropy], axis=1)

    def _mahalanobis(self, features: Array) -> Array:
        centred = features - self._mean
        return np.einsum("ni,ij,nj->n", centred, self._precision, centred)

    def detection(
        self,
        strategy: str,
        *,
        benign: QueryResult,
        attacker: QueryResult,
        n_resamples: int,
        seed: int,
    ) -> Detection:
        """Measure the detection of an attacker's queries among benign ones, none of them fitted."""
        negative, positive = self.scores(benign), self.scores(attacker)
        is_attacker = np.repeat([0.0, 1.0], [len(negative), len(positive)])
        ranking = Ranking.of(np.concatenate([negative, positive]))
        resamples = Resamples(len(is_attacker), n_resamples=n_resamples, seed=seed)
        # At each rate, that share of benign queries scores above the threshold.
        thresholds = np.quantile(negative, 1 - np.linspace(0, 1, POINTS))
        return Detection(
            strategy=strategy,
            auc=resamples.estimate(lambda counts: auroc(ranking, counts, is_attacker)),
            false_positive_rate=tuple(float((negative > each).mean()) for each in thresholds),
            true_positive_rate=tuple(float((positive > each).mean()) for each in thresholds),
            flagged=float((positive > self.threshold).mean()),
            flagged_benign=float((negative > self.threshold).mean()),
        )
