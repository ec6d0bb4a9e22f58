"""Attribution similarity of two models, and the completeness check of integrated gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.attributions import alignment
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result

Array = NDArray[np.float64]
TOLERANCE = 0.05
"""Largest completeness error, as a share of the mean difference."""


class Alignment(Result):
    """The attribution similarity of student and teacher, by one method.

    Attributes:
        method: The attribution method.
        cosine: Mean cosine similarity per sample.
        spearman: Mean rank correlation.
        overlap: Mean share of the top positions in common.
        elsewhere: Mean cosine with the teacher's map of another sample, as a baseline.
        samples: Number of samples counted: those with a constant map are left out.
    """

    method: str
    cosine: Estimate
    spearman: Estimate
    overlap: Estimate
    elsewhere: float
    samples: int


class Completeness(Result):
    """The completeness of integrated gradients: whether they sum to the difference of the logits.

    Attributes:
        side: The model.
        largest: The largest error of a sum, as a share of the mean difference.
        within: The share of samples with an error below `TOLERANCE` of the mean difference.
    """

    side: str
    largest: float
    within: float


def align(
    method: str, student: Array, teacher: Array, *, share: float, draws: int, seed: int
) -> Alignment | None:
    """Compute the similarity of two models' maps; None if no sample has a map in both.

    Args:
        method: The name of the method.
        student: The student's maps, `[n, places]`.
        teacher: The teacher's, of the same samples and classes.
        share: The share of positions that counts as top.
        draws: Number of bootstrap resamples.
        seed: Seed of the resampling.
    """
    cosines, ranks = alignment.cosine(student, teacher), alignment.spearman(student, teacher)
    both = np.isfinite(cosines) & np.isfinite(ranks)
    if not both.any():
        return None
    overlap = alignment.top_overlap(student[both], teacher[both], share=share)
    elsewhere = alignment.cosine(student[both], np.roll(teacher[both], 1, axis=0))
    resamples = Resamples(int(both.sum()), draws=draws, seed=seed)
    return Alignment(
        method=method,
        cosine=mean(cosines[both], resamples),
        spearman=mean(ranks[both], resamples),
        overlap=mean(overlap, resamples),
        elsewhere=float(elsewhere.mean()),
        samples=resamples.samples,
    )


def complete(side: str, maps: Array, missed: Array) -> Completeness:
    r"""Check the completeness of attributions: $\sum_i a_i = f(x) - f(x')$.

    Args:
        side: The model.
        maps: Integrated gradients, `[n, places]`.
        missed: The errors of their sums, `[n]`.

    Example:
        >>> complete("student", np.array([[1.0, 1.0], [2.0, 0.0]]), np.array([0.0, 0.5]))
        Completeness(side='student', largest=0.285..., within=0.5)
    """
    difference = np.abs(maps.sum(axis=1) - missed).mean()
    part = np.abs(missed) / max(float(difference), np.finfo(np.float32).tiny)
    within = float((part < TOLERANCE).mean())
    return Completeness(side=side, largest=float(part.max()), within=within)


def mean(values: Array, resamples: Resamples) -> Estimate:
    """Estimate the mean of one value per sample, with its interval."""
    return resamples.estimate(lambda counts: counts @ values / len(values))
