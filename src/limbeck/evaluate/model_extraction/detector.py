"""Detection of model extraction queries against benign ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import distance

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.model_extraction.attacker import QueryResult

Array = NDArray[np.float64]
FALSE_ALARMS = 0.05
"""The false positive rate on benign queries at which the threshold is set."""

POINTS = 21
"""Number of points of the ROC curve."""


class Detection(Result):
    """The detection metrics of one attack strategy.

    Attributes:
        strategy: The attacker's query strategy.
        auc: The AUROC: the probability that an attacker's query scores above a benign one.
        false_positive_rate: Points of the ROC curve: the false positive rates on benign queries.
        caught: The true positive rate on the attacker's queries at each of these.
        flagged: The true positive rate at the threshold set on other benign queries.
        flagged_benign: The false positive rate at it.
    """

    strategy: str
    auc: Estimate
    false_positive_rate: tuple[float, ...]
    caught: tuple[float, ...]
    flagged: float
    flagged_benign: float


class Detector:
    r"""A detector that scores queries by their distance from benign ones.

    A query has two features: the logarithm of the distance to the nearest benign one, and the
    entropy of the prediction. The score is the squared Mahalanobis distance to benign queries.

    $$s(x) = (z - \mu)^\top \Sigma^{-1} (z - \mu), \qquad
      z = (\log d(x),\; H(p(\cdot \mid x)))$$

    Args:
        honest: Benign queries, at least two, not among those to be scored.

    Source: Juuti et al., EuroS&P 2019 (arXiv:1805.02628), for distances; Lee et al., NeurIPS 2018
    (arXiv:1807.03888), for the score.
    """

    def __init__(self, honest: QueryResult) -> None:
        self._honest = honest.features
        among = distance.cdist(honest.features, honest.features)
        np.fill_diagonal(among, np.inf)
        self._floor = _floor(among.min(axis=1))
        signs = self._signs(among, honest)
        self._mean = signs.mean(axis=0)
        spread = np.cov(signs.T) + 1e-6 * np.eye(2)
        self._precision = np.linalg.inv(spread)
        self.threshold = float(np.quantile(self._score(signs), 1 - FALSE_ALARMS))

    def scores(self, asked: QueryResult) -> Array:
        """Compute one score per query, `[n]`; higher is less like a benign one."""
        return self._score(self._signs(distance.cdist(asked.features, self._honest), asked))

    def _signs(self, distances: Array, asked: QueryResult) -> Array:
        nearest = np.log(np.maximum(distances.min(axis=1), self._floor))
        p = asked.probabilities
        entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=1)
        return np.stack([nearest, entropy], axis=1)

    def _score(self, signs: Array) -> Array:
        off = signs - self._mean
        return np.einsum("ni,ij,nj->n", off, self._precision, off)


def detection(
    strategy: str,
    detector: Detector,
    *,
    benign: QueryResult,
    attacker: QueryResult,
    draws: int,
    seed: int,
) -> Detection:
    """Measure the detection of queries that the detector was not fitted on.

    Args:
        strategy: The attacker's query strategy.
        detector: The fitted detector.
        benign: Benign queries.
        attacker: The attacker's queries.
        draws: Number of bootstrap resamples of both.
        seed: Seed of the resampling.
    """
    good, bad = detector.scores(benign), detector.scores(attacker)
    resamples = Resamples(len(good) + len(bad), n_resamples=draws, seed=seed)
    rates = np.linspace(0, 1, POINTS)
    # At each rate, that share of benign queries scores above the threshold.
    thresholds = np.quantile(good, 1 - rates)
    return Detection(
        strategy=strategy,
        auc=resamples.estimate(lambda counts: roc_auc(good, bad, counts)),
        false_positive_rate=tuple(float((good > each).mean()) for each in thresholds),
        caught=tuple(float((bad > each).mean()) for each in thresholds),
        flagged=float((bad > detector.threshold).mean()),
        flagged_benign=float((good > detector.threshold).mean()),
    )


def _floor(distances: Array) -> float:
    """Return the lower bound of distances, so that the logarithm of a zero distance is finite."""
    return 1e-3 * float(np.median(distances)) or 1e-12


def roc_auc(benign: Array, attacker: Array, counts: Array | None = None) -> Array:
    r"""Compute the AUROC of the attacker's queries against benign ones, `[draws]`.

    $$P(s_a > s_b) + \tfrac12 P(s_a = s_b)$$ for scores $s_a$ (attacker), $s_b$ (benign)

    Args:
        benign: Scores, `[n]`.
        attacker: Scores, `[m]`.
        counts: How often each counts, the benign first: `[draws, n + m]`; by default once. NaN
            where one of the two was not drawn at all.

    Example:
        >>> roc_auc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
        array([0.875])
    """
    counts = np.ones((1, len(benign) + len(attacker))) if counts is None else counts
    one, other = counts[:, : len(benign)], counts[:, len(benign) :]
    above = (attacker > benign[:, None]) + 0.5 * (attacker == benign[:, None])
    pairs = one.sum(axis=1) * other.sum(axis=1)
    won = (one @ above * other).sum(axis=1)
    return np.divide(won, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
