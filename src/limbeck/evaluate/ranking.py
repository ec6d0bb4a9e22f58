"""Ranking metrics: AUROC, FPR@95TPR and the area under the risk-coverage curve (AURC)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.bootstrap import Counts

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Samples from the highest score to the lowest; equal scores form one step.

    Attributes:
        order: The samples' rows, highest score first, `[samples]`.
        last: The end of each step in the order, `[steps]`.
    """

    order: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, scores: Values) -> Ranking:
        """Build a ranking of samples by their scores, `[samples]`."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        return cls(order, last)

    def cumulated(self, counts: Counts, *weights: Values) -> list[Counts]:
        """Compute the cumulative sum of counts times each weight, from the highest score down.

        Args:
            counts: How often each sample was drawn, `[draws, samples]`.
            weights: The weight of each sample, `[samples]`.

        Returns:
            `[draws, steps]` for each of the weights.
        """
        ranked = counts[:, self.order]
        summed = [np.cumsum(ranked * weight[self.order], axis=1) for weight in weights]
        if len(self.last) == len(self.order):
            return summed
        return [whole[:, self.last] for whole in summed]


def auroc(ranking: Ranking, counts: Counts, positive: Values) -> Values:
    r"""Compute the AUROC: how often a positive scores above a negative, ties counted half.

    $$P(s^+ > s^-) + \tfrac12 P(s^+ = s^-)$$

    Args:
        ranking: The samples' order by score.
        counts: How often each sample was drawn, `[draws, samples]`.
        positive: 1 for a positive sample, 0 for a negative one, `[samples]`.

    Returns:
        `[draws]`; NaN for a draw without positives or without negatives.

    Example:
        >>> order = Ranking.of(np.array([0.9, 0.8, 0.7]))
        >>> auroc(order, np.ones((1, 3)), np.array([1.0, 0.0, 1.0])).tolist()
        [0.5]

    Source: Hanley and McNeil, Radiology 1982.
    """
    above, below = ranking.cumulated(counts, positive, 1.0 - positive)
    steps = np.diff(below, axis=1, prepend=0)
    pairs = (np.diff(above, axis=1, prepend=0) * (below[:, -1:] - below + steps / 2)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(pairs / (above[:, -1] * below[:, -1]))


def false_positives(
    ranking: Ranking, counts: Counts, positive: Values, *, reached: float = 0.95
) -> Values:
    """Compute the false positive rate at a true positive rate: FPR@95TPR.

    Args:
        ranking: The samples' order by score.
        counts: How often each sample was drawn, `[draws, samples]`.
        positive: 1 for a positive sample, 0 for a negative one, `[samples]`.
        reached: The true positive rate.

    Returns:
        `[draws]`; NaN for a draw without positives or without negatives.

    Example:
        >>> order = Ranking.of(np.array([0.9, 0.8, 0.7]))
        >>> false_positives(order, np.ones((1, 3)), np.array([1.0, 0.0, 1.0])).tolist()
        [1.0]

    Source: Hendrycks and Gimpel, ICLR 2017 (arXiv:1610.02136); Liang et al., ICLR 2018.
    """
    above, below = ranking.cumulated(counts, positive, 1.0 - positive)
    # Counts are integers: a bound slightly lower keeps rounding from moving the step.
    step = (above >= reached * above[:, -1:] - 1e-9).argmax(axis=1)
    with np.errstate(invalid="ignore"):
        share = below[np.arange(len(below)), step] / below[:, -1]
    share[above[:, -1] == 0] = np.nan
    return np.asarray(share)


def aurc(ranking: Ranking, counts: Counts, wrong: Values) -> Values:
    r"""Compute the area under the risk-coverage curve (AURC): the mean risk over all coverages.

    $$\mathrm{AURC} = \frac1n \sum_k \frac{1}{k} \sum_{i \le k} e_{(i)}$$

    with the errors e in the order of confidence; samples of equal confidence are covered together.

    Args:
        ranking: The samples' order by confidence.
        counts: How often each sample was drawn, `[draws, samples]`.
        wrong: 1 for an error, 0 for a correct prediction, `[samples]`.

    Returns:
        `[draws]`, each in [0, 1].

    Example:
        >>> order = Ranking.of(np.array([0.9, 0.8]))
        >>> aurc(order, np.ones((1, 2)), np.array([0.0, 1.0])).tolist()
        [0.25]

    Source: Geifman et al., ICLR 2019 (arXiv:1805.08206).
    """
    answered, errors = ranking.cumulated(counts, np.ones_like(wrong), wrong)
    risk = errors / np.maximum(answered, 1)
    return np.asarray((np.diff(answered, axis=1, prepend=0) * risk).sum(axis=1) / answered[:, -1])
