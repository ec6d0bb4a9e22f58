"""The maps of two models beside each other, and the check of one that adds up."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.attributions import alignment
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result

Array = NDArray[np.float64]
TOLERANCE = 0.05
"""How much of the mean difference a sum may miss."""


class Alignment(Result):
    """How alike the maps of student and teacher are, by one method.

    Attributes:
        method: By which method.
        cosine: Mean cosine of the two maps of a sample.
        spearman: Mean correlation of their ranks.
        overlap: Mean share of the strongest places that they have in common.
        elsewhere: Mean cosine with the teacher's map of another sample: what likeness is worth.
        samples: How many samples were counted: a map that is the same everywhere points nowhere.
    """

    method: str
    cosine: Estimate
    spearman: Estimate
    overlap: Estimate
    elsewhere: float
    samples: int


class Completeness(Result):
    """Whether integrated gradients add up to the difference that they share out.

    Attributes:
        side: Whose.
        largest: The most that a sum misses, as a share of the mean difference.
        within: The share of samples whose sums miss less than `TOLERANCE` of the mean difference.
    """

    side: str
    largest: float
    within: float


def align(
    method: str, student: Array, teacher: Array, *, share: float, draws: int, seed: int
) -> Alignment | None:
    """Compare the maps of two models; none if no sample has a map in both.

    Args:
        method: What the method is called.
        student: The student's maps, `[n, places]`.
        teacher: The teacher's, of the same samples and classes.
        share: How many places count as the strongest, of all of them.
        draws: How often the samples are drawn again.
        seed: Decides the draws.
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
    r"""Check that attributions add up: $\sum_i a_i = f(x) - f(x')$.

    Args:
        side: Whose they are.
        maps: Integrated gradients, `[n, places]`.
        missed: What their sums have too much, `[n]`.

    Example:
        >>> complete("student", np.array([[1.0, 1.0], [2.0, 0.0]]), np.array([0.0, 0.5]))
        Completeness(side='student', largest=0.285..., within=0.5)
    """
    difference = np.abs(maps.sum(axis=1) - missed).mean()
    part = np.abs(missed) / max(float(difference), np.finfo(np.float32).tiny)
    within = float((part < TOLERANCE).mean())
    return Completeness(side=side, largest=float(part.max()), within=within)


def mean(values: Array, resamples: Resamples) -> Estimate:
    """Give the mean of one value a sample, with its interval."""
    return resamples.estimate(lambda counts: counts @ values / len(values))
