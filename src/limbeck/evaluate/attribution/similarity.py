"""Attribution similarity: cosine, rank correlation, and overlap of the top positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

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
Labels = NDArray[np.int64]


def cosine(one: Array, other: Array) -> Array:
    r"""Compute the cosine similarity of maps `[n, positions]`: `[n]`, NaN where one is zero.

    $$\frac{a \cdot b}{\lVert a \rVert \, \lVert b \rVert}$$

    Example:
        >>> cosine(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[2.0, 0.0], [1.0, -1.0]]))
        array([1., 0.])
    """
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    undefined = np.full(norms.shape, np.nan)
    return np.divide((one * other).sum(axis=1), norms, out=undefined, where=norms > 0)


def spearman(one: Array, other: Array) -> Array:
    """Compute Spearman's rank correlation of maps `[n, positions]`: `[n]`, NaN for a constant map.

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

    where m is 1 for the k positions of largest absolute value, a `share` of all and at least one.
    Positions tied with the k-th share the rest of k equally.

    Example:
        >>> top_overlap(np.array([[3.0, -2.0, 1.0, 0.0]]), np.array([[0.0, 5.0, 1.0, 2.0]]),
        ...             share=0.5)
        array([0.5])
    """
    count = max(1, math.ceil(share * one.shape[1]))
    return np.minimum(_in_top(one, count), _in_top(other, count)).sum(axis=1) / count


def _in_top(maps: Array, count: int) -> Array:
    """Compute the membership of each position in the top k, `[n, positions]`; a row sums to k."""
    strength = np.abs(maps)
    threshold = -np.partition(-strength, count - 1, axis=1)[:, count - 1 : count]
    above, tied = strength > threshold, strength == threshold
    remaining = (count - above.sum(axis=1)) / tied.sum(axis=1)
    return above + tied * remaining[:, None]


def most_divergent(maps: Sequence[Array], count: int) -> list[int]:
    """Select samples to show: those with the least similar maps, then those with the most similar.

    With the maps of one model alone, `[n, positions]`, the first samples are selected.

    Example:
        >>> one = np.eye(3)
        >>> most_divergent([one, np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 1]])], 2)
        [1, 0]
    """
    if len(maps) < 2:
        return list(range(min(count, len(maps[0]))))
    values = cosine(*maps)
    order = [int(row) for row in np.argsort(values, kind="stable") if np.isfinite(values[row])]
    if len(order) <= count:
        return order
    return order[: count - count // 2] + order[len(order) - count // 2 :]


Mask = NDArray[np.bool_]
Predict = Callable[[Mask], NDArray[np.float32]]


def most_attributed(maps: Array, valid: Mask, *, share: float) -> Mask:
    """Return the mask of each input's positions of highest attribution: `[n, positions]`.

    `share` is the share of the `valid` positions (others are padding) that is selected; at least
    one position.

    Example:
        >>> valid = np.array([[True, True, True, False]])
        >>> most_attributed(np.array([[1.0, 3.0, -5.0, 9.0]]), valid, share=0.3)
        array([[False,  True, False, False]])
    """
    order = np.argsort(np.where(valid, -maps, np.inf), axis=1, kind="stable")
    count = np.array([max(1, math.ceil(share * n)) for n in valid.sum(axis=1)])
    rank = np.argsort(order, axis=1, kind="stable")
    return (rank < count[:, None]) & valid


def deletion_score(predict: Predict, removed: Mask, classes: Labels) -> Array:
    """Compute the deletion score: the decrease of probability without some positions, `[n]`.

    `predict` returns the logits `[n, classes]` of the inputs without the positions of a mask.

    Source: Samek et al., TNNLS 2017 (arXiv:1509.06321).
    """
    rows = np.arange(len(classes))
    before, after = (
        scipy.special.softmax(predict(mask).astype(np.float64), axis=1)[rows, classes]
        for mask in (np.zeros_like(removed), removed)
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
    method: str, student: Array, teacher: Array, *, share: float, n_resamples: int, seed: int
) -> Alignment | None:
    """Compute the similarity of two models' maps; None if no sample has a map in both."""
    cosines, ranks = cosine(student, teacher), spearman(student, teacher)
    both = np.isfinite(cosines) & np.isfinite(ranks)
    if not both.any():
        return None
    overlap = top_overlap(student[both], teacher[both], share=share)
    elsewhere = cosine(student[both], np.roll(teacher[both], 1, axis=0))
    resamples = Resamples(int(both.sum()), n_resamples=n_resamples, seed=seed)
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

    `maps` are integrated gradients, `[n, positions]`; `missed` are the errors of their sums, `[n]`.

    Example:
        >>> complete("student", np.array([[1.0, 1.0], [2.0, 0.0]]), np.array([0.0, 0.5]))
        Completeness(side='student', largest=0.285..., within=0.5)
    """
    difference = np.abs(maps.sum(axis=1) - missed).mean()
    error = np.abs(missed) / max(float(difference), np.finfo(np.float32).tiny)
    within = float((error < TOLERANCE).mean())
    return Completeness(side=side, largest=float(error.max()), within=within)


def mean(values: Array, resamples: Resamples) -> Estimate:
    """Estimate the mean of one value per sample, with its interval."""
    return resamples.estimate(lambda counts: counts @ values / len(values))


METHODS = {
    "integrated_gradients": "integrated gradients",
    "saliency": "saliency",
    "occlusion": "occlusion",
}
"""Names of the methods, the most informative first."""

MARGIN = 0.05
"""The non-inferiority margin of all comparisons."""


def aligned(alignments: Sequence[Alignment], share: float) -> list[MetricComparison]:
    """Build the comparisons of attribution similarity, which have no reference value."""
    return [
        compare(
            f"Attribution similarity of student and teacher, {METHODS[one.method]}",
            unit="number",
            direction="higher",
            student=one.cosine,
            margin=MARGIN,
            method="Mean cosine similarity of the maps of the "
            f"{'exported files' if one.method == 'occlusion' else 'PyTorch models'} for the class "
            f"predicted by the teacher, over {one.samples} samples; {one.elsewhere:.2f} with the "
            f"teacher's map of another sample. Overlap of the top {100 * share:.0f} % of the "
            f"positions: {100 * one.overlap.value:.0f} %.",
        )
        for one in alignments
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
    random = np.random.default_rng(context.seed).random(material.valid.shape)
    baseline = most_attributed(random, material.valid, share=share)
    scores = []
    for (_, model), attribution in zip(context.models(), maps, strict=True):
        top = most_attributed(attribution, material.valid, share=share)
        predict = partial(material.without, model.predictor)
        scores.append(
            deletion_score(predict, top, classes) - deletion_score(predict, baseline, classes)
        )
    source = "" if method == "occlusion" else " of its PyTorch model"
    return _compare(
        "Deletion score",
        scores,
        resamples,
        unit="share",
        method="Decrease of the exported file's probability of the class without the top "
        f"{100 * share:.0f} % of the positions, less the decrease without as many random "
        f"positions; by each model's own {METHODS[method]}{source}.",
    )


def stability(explained: Sequence[Explained], resamples: Resamples) -> list[MetricComparison]:
    """Compare the stability of each model's saliency under a small step against the class."""
    cosines = [
        np.nan_to_num(cosine(one.maps["saliency"], one.after_step))
        for one in explained
        if one.after_step is not None
    ]
    if len(cosines) < len(explained):
        return []
    method = (
        "Mean cosine similarity of the PyTorch models' saliency maps before and after one signed "
        "gradient step of 2/255 per pixel against the class; 0 for a map that is zero everywhere."
    )
    name = "Saliency stability under a small step"
    return [_compare(name, cosines, resamples, unit="number", method=method)]


def _compare(
    name: str, values: Sequence[Array], resamples: Resamples, *, unit: Unit, method: str
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
        method=method,
    )
