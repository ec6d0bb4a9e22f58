"""Attribution similarity: cosine, rank correlation, and overlap of the top positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.attribution.explained import Explained, Material
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.comparison import Estimate, MetricComparison, Unit, compare

if TYPE_CHECKING:
    from limbeck.evaluate.context import EvaluationContext


Array = NDArray[np.float64]


def cosine(one: Array, other: Array) -> Array:
    r"""Compute the cosine similarity of two maps, `[n]`; NaN where one is zero everywhere.

    $$\frac{a \cdot b}{\lVert a \rVert \, \lVert b \rVert}$$

    Args:
        one: Maps, `[n, places]`.
        other: Maps of the same inputs, `[n, places]`.

    Example:
        >>> cosine(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[2.0, 0.0], [1.0, -1.0]]))
        array([1., 0.])
    """
    length = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return _ratio((one * other).sum(axis=1), length)


def spearman(one: Array, other: Array) -> Array:
    """Compute Spearman's rank correlation of two maps, `[n]`; NaN where a map is constant.

    Args:
        one: Maps, `[n, places]`.
        other: Maps of the same inputs, `[n, places]`.

    Example:
        >>> spearman(np.array([[1.0, 2.0, 9.0]]), np.array([[1.0, 4.0, 5.0]]))
        array([1.])

    Source: Spearman, American Journal of Psychology 1904.
    """
    ranks = [scipy.stats.rankdata(maps, axis=1) for maps in (one, other)]
    return cosine(*(rank - rank.mean(axis=1, keepdims=True) for rank in ranks))


def top_overlap(one: Array, other: Array, *, share: float = 0.1) -> Array:
    r"""Compute the share of the top-k positions that two maps have in common, `[n]`.

    $$\frac1k \sum_i \min(m^a_i, m^b_i)$$

    where m is 1 for the k positions of largest absolute value. Positions tied with the k-th share
    the rest of k equally.

    Args:
        one: Maps, `[n, places]`.
        other: Maps of the same inputs, `[n, places]`.
        share: k as a share of all positions; at least one position.

    Example:
        >>> top_overlap(np.array([[3.0, -2.0, 1.0, 0.0]]), np.array([[0.0, 5.0, 1.0, 2.0]]),
        ...             share=0.5)
        array([0.5])
    """
    count = max(1, math.ceil(share * one.shape[1]))
    return np.minimum(_strongest(one, count), _strongest(other, count)).sum(axis=1) / count


def _strongest(maps: Array, count: int) -> Array:
    """Compute the membership of each position in the top k, `[n, places]`; each row sums to k."""
    strength = np.abs(maps)
    least = -np.partition(-strength, count - 1, axis=1)[:, count - 1 : count]
    above, tied = strength > least, strength == least
    left = (count - above.sum(axis=1)) / tied.sum(axis=1)
    return above + tied * left[:, None]


def _ratio(part: Array, of: Array) -> Array:
    return np.divide(part, of, out=np.full(of.shape, np.nan), where=of > 0)


Mask = NDArray[np.bool_]
Answer = Callable[[Mask], NDArray[np.float32]]


def most_attributed(maps: Array, there: Mask, *, share: float) -> Mask:
    """Return the mask of each input's positions of highest attribution: `[n, places]`.

    Args:
        maps: The attribution of each position, `[n, places]`.
        there: The positions of each input (others are padding), `[n, places]`.
        share: The share of them that is marked; at least one.

    Example:
        >>> valid = np.array([[True, True, True, False]])
        >>> most_attributed(np.array([[1.0, 3.0, -5.0, 9.0]]), valid, share=0.3)
        array([[False,  True, False, False]])
    """
    order = np.argsort(np.where(there, -maps, np.inf), axis=1, kind="stable")
    count = np.array([max(1, math.ceil(share * n)) for n in there.sum(axis=1)])
    rank = np.argsort(order, axis=1, kind="stable")
    return (rank < count[:, None]) & there


def deletion_score(answer: Answer, marked: Mask, classes: NDArray[np.int64]) -> Array:
    """Compute the deletion score: the decrease of probability without some positions, `[n]`.

    Args:
        answer: Predicts the inputs without the positions of a mask: logits, `[n, classes]`.
        marked: The removed positions, `[n, places]`.
        classes: The class of the probability, `[n]`.

    Source: Samek et al., TNNLS 2017 (arXiv:1509.06321).
    """
    rows = np.arange(len(classes))
    nothing = np.zeros_like(marked)
    before, after = (
        scipy.special.softmax(answer(mask).astype(np.float64), axis=1)[rows, classes]
        for mask in (nothing, marked)
    )
    return before - after


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
    cosines, ranks = cosine(student, teacher), spearman(student, teacher)
    both = np.isfinite(cosines) & np.isfinite(ranks)
    if not both.any():
        return None
    overlap = top_overlap(student[both], teacher[both], share=share)
    elsewhere = cosine(student[both], np.roll(teacher[both], 1, axis=0))
    resamples = Resamples(int(both.sum()), n_resamples=draws, seed=seed)
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


Labels = NDArray[np.int64]
METHODS = {
    "integrated_gradients": "integrated gradients",
    "saliency": "saliency",
    "occlusion": "occlusion",
}
"""Names of the methods, the most informative first."""

MARGIN = 0.05


def aligned(alignments: Sequence[Alignment], share: float) -> list[MetricComparison]:
    """Build the comparisons of attribution similarity, which have no reference value."""
    source = {"occlusion": "of the files that ship"}
    return [
        compare(
            f"Attribution similarity of student and teacher, {METHODS[each.method]}",
            unit="number",
            direction="higher",
            student=each.cosine,
            margin=MARGIN,
            method=f"Mean cosine of the maps {source.get(each.method, 'of the models in torch')} "
            f"for the class that the teacher answers, of {each.samples} samples; with the "
            f"teacher's map of another sample it is {each.elsewhere:.2f}, and of the strongest "
            f"{100 * share:.0f} % of the places {100 * each.overlap.value:.0f} % are the same.",
        )
        for each in alignments
    ]


def removed(
    context: EvaluationContext,
    material: Material,
    maps: Sequence[Array],
    classes: Labels,
    method: str,
    share: float,
    resamples: Resamples,
) -> MetricComparison:
    """Compare deletion scores on the exported files, relative to random positions."""
    random = np.random.default_rng(context.seed).random(material.there.shape)
    anywhere = most_attributed(random, material.there, share=share)
    falls = []
    for (_, side), found in zip(context.models(), maps, strict=True):
        marked = most_attributed(found, material.there, share=share)

        def answer(mask: NDArray[np.bool_], asked: Any = side.predictor) -> NDArray[np.float32]:
            return material.without(asked, mask)

        falls.append(
            deletion_score(answer, marked, classes) - deletion_score(answer, anywhere, classes)
        )
    made = "" if method == "occlusion" else ", made with gradients in torch"
    return _compared(
        "Deletion score",
        falls,
        resamples,
        unit="share",
        how=f"How much further the probability of the class falls, in the files that ship, without "
        f"the strongest {100 * share:.0f} % of the places than without as many drawn by chance; "
        f"the map is each model's own {METHODS[method]}{made}.",
    )


def stability(explained: Sequence[Explained], resamples: Resamples) -> list[MetricComparison]:
    """Compare the stability of each model's saliency under a small step against the class."""
    kept = [
        np.nan_to_num(cosine(side.maps["saliency"], side.after_step))
        for side in explained
        if side.after_step is not None
    ]
    if len(kept) < len(explained):
        return []
    how = (
        "Mean cosine of saliency maps before and after one step of 2/255 a pixel against the "
        "class, both of the models in torch; a map that is zero everywhere counts as 0."
    )
    return [
        _compared(
            "Steadiness of saliency under a small step", kept, resamples, unit="number", how=how
        )
    ]


def _compared(
    name: str, values: Sequence[Array], resamples: Resamples, *, unit: Unit, how: str
) -> MetricComparison:
    student, *teacher = values
    return compare(
        name,
        unit=unit,
        direction="higher",
        student=mean(student, resamples),
        teacher=mean(teacher[0], resamples) if teacher else None,
        difference=mean(student - teacher[0], resamples) if teacher else None,
        margin=MARGIN,
        method=how,
    )
