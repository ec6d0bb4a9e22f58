"""Long-tailed recall: rare classes against frequent ones (head-tail split)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.comparison import Estimate, MetricComparison
from limbeck.evaluate.fairness.bootstrap import Array, FairnessInputs, compared
from limbeck.evaluate.fairness.by_group import share

UNEVEN = 2.0
"""Minimal frequency ratio of frequent to rare classes for a gap to be reported."""


@dataclass(frozen=True)
class HeadTailSplit:
    """The rarest and the most frequent third of the classes, by index.

    Attributes:
        rare: The rarest, at least one.
        frequent: As many of the most frequent.
        uneven: Whether the frequent ones are at least `UNEVEN` times as frequent on average.
    """

    rare: tuple[int, ...]
    frequent: tuple[int, ...]
    uneven: bool


def head_tail_split(frequency: NDArray[np.int64]) -> HeadTailSplit:
    """Return the rarest and the most frequent third of the classes.

    Args:
        frequency: How often each class occurs, as counts.

    Example:
        >>> head_tail_split(np.array([100, 50, 10]))
        HeadTailSplit(rare=(2,), frequent=(0,), uneven=True)
    """
    order = np.argsort(frequency, kind="stable")
    third = max(1, len(order) // 3)
    rare, frequent = order[:third], order[-third:]
    low, high = frequency[rare].mean(), frequency[frequent].mean()
    return HeadTailSplit(
        rare=tuple(sorted(int(each) for each in rare)),
        frequent=tuple(sorted(int(each) for each in frequent)),
        uneven=bool(high > low and high >= UNEVEN * low),
    )


def recall(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: int,
    counts: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Compute the recall of each class, `[draws, classes]`; NaN for a class without samples.

    Args:
        labels: `[samples]`.
        predicted: The predicted classes, `[samples]`.
        classes: Number of classes.
        counts: How often each sample counts, `[draws, samples]`; by default once.

    Example:
        >>> recall(np.array([0, 0, 1]), np.array([0, 1, 1]), classes=3)
        array([[0.5, 1. , nan]])
    """
    counts = np.ones((1, len(labels))) if counts is None else counts
    of_class = labels[:, None] == np.arange(classes)
    total = counts @ of_class
    right = counts @ (of_class & (labels == predicted)[:, None])
    return np.divide(right, total, out=np.full(total.shape, np.nan), where=total > 0)


def worst(recalls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smallest recall of a class, `[draws]`; classes without samples left out."""
    return np.fmin.reduce(recalls, axis=1)


def gap(recalls: NDArray[np.float64], between: HeadTailSplit) -> NDArray[np.float64]:
    """Compute the mean recall of the frequent classes less that of the rare ones, `[draws]`.

    Example:
        >>> gap(np.array([[0.9, 0.8, 0.5]]), HeadTailSplit(rare=(2,), frequent=(0,), uneven=True))
        array([0.4])
    """
    means = [_mean(recalls[:, list(some)]) for some in (between.frequent, between.rare)]
    return means[0] - means[1]


def _mean(recalls: NDArray[np.float64]) -> NDArray[np.float64]:
    there = np.isfinite(recalls)
    total = np.where(there, recalls, 0.0).sum(axis=1)
    count = there.sum(axis=1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


class ClassRecall(Result):
    """The recall of one class, with its frequency and number of test samples.

    Attributes:
        name: The class.
        frequency: Its share of the samples from which frequency is estimated.
        samples: Number of test samples.
        judged: Whether they suffice.
        student: The student's recall; None without samples.
        teacher: The same of the teacher.
    """

    name: str
    frequency: float
    samples: int
    judged: bool
    student: Estimate | None
    teacher: Estimate | None


def compare_classes(
    frequency: NDArray[np.int64], before: FairnessInputs
) -> tuple[tuple[ClassRecall, ...], list[MetricComparison], list[str]]:
    """Compare the recall of rare classes with that of frequent ones.

    Args:
        frequency: How often each class occurs where the models are used, `[classes]`.
        before: The labels and predictions.

    Returns:
        The classes, the rarest first; the metric comparisons; what could not be judged.
    """
    total = np.bincount(before.labels, minlength=len(before.classes))
    enough = total >= before.smallest
    notes = _too_small(before, total)
    findings: list[MetricComparison] = []
    if enough.any():
        recalls = [
            np.where(enough, _recalls(before, predicted), np.nan) for predicted in before.predicted
        ]
        findings.append(_worst(before, recalls))
        between = head_tail_split(frequency)
        gaps = [gap(side, between) for side in recalls]
        if not between.uneven:
            notes.append("The classes are about equally frequent, so none is called rare.")
        elif np.isnan(gaps[0][0]):
            notes.append("The rarest or the most frequent classes have too few test samples.")
        else:
            findings.append(_gap(before, gaps, between))
    order = np.argsort(frequency, kind="stable")
    return _figures(before, frequency, total, order), findings, notes


def _too_small(before: FairnessInputs, total: NDArray[np.int64]) -> list[str]:
    small = [
        f"{name} ({n})"
        for name, n in zip(before.classes, total, strict=True)
        if n < before.smallest
    ]
    if not small:
        return []
    return [
        f"Classes too small to be judged, with fewer than {before.smallest} test samples: "
        f"{', '.join(small)}."
    ]


def _recalls(before: FairnessInputs, predicted: NDArray[np.int64]) -> Array:
    return before.drawn(
        lambda counts: recall(before.labels, predicted, len(before.classes), counts)
    )


def _worst(before: FairnessInputs, recalls: list[Array]) -> MetricComparison:
    name = before.classes[int(np.nanargmin(recalls[0][0]))]
    return compared(
        f"Recall of the worst class, {name}",
        [worst(side) for side in recalls],
        samples=len(before.labels),
        direction="higher",
        method="The smallest share of a class that is recognised, of each model its own worst "
        f"class, among classes with at least {before.smallest} test samples.",
    )


def _gap(before: FairnessInputs, gap: list[Array], between: HeadTailSplit) -> MetricComparison:
    names = ", ".join(before.classes[c] for c in between.rare)
    return compared(
        "Recall gap between frequent and rare classes",
        gap,
        samples=len(before.labels),
        direction="lower",
        method="The mean recall of the most frequent third of the classes less that of the rarest "
        f"third ({names}), by how often they occur among the validation samples.",
    )


def _figures(
    before: FairnessInputs,
    frequency: NDArray[np.int64],
    total: NDArray[np.int64],
    order: NDArray[np.int64],
) -> tuple[ClassRecall, ...]:
    right = [
        np.bincount(before.labels[side == before.labels], minlength=len(before.classes))
        for side in before.predicted
    ]
    both = [
        [share(int(side[c]), int(total[c])) if total[c] else None for side in right]
        for c in range(len(total))
    ]
    everything = max(1, int(frequency.sum()))
    return tuple(
        ClassRecall(
            name=before.classes[c],
            frequency=float(frequency[c]) / everything,
            samples=int(total[c]),
            judged=bool(total[c] >= before.smallest),
            student=both[c][0],
            teacher=both[c][1] if len(right) > 1 else None,
        )
        for c in order
    )
