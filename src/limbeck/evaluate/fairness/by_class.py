"""Long-tailed recall: rare classes against frequent ones (head-tail split)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import proportion
from limbeck.evaluate.comparison import Estimate, MetricComparison
from limbeck.evaluate.fairness.bootstrap import Array, FairnessInputs, Labels

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


def head_tail_split(frequency: Labels) -> HeadTailSplit:
    """Return the rarest and the most frequent third of the classes, by their counts.

    Example:
        >>> head_tail_split(np.array([100, 50, 10]))
        HeadTailSplit(rare=(2,), frequent=(0,), uneven=True)
    """
    order = np.argsort(frequency, kind="stable")
    third = max(1, len(order) // 3)
    rare, frequent = np.sort(order[:third]), np.sort(order[-third:])
    low, high = frequency[rare].mean(), frequency[frequent].mean()
    return HeadTailSplit(
        rare=tuple(rare.tolist()),
        frequent=tuple(frequent.tolist()),
        uneven=bool(high > low and high >= UNEVEN * low),
    )


def recall(labels: Labels, predicted: Labels, classes: int, counts: Array) -> Array:
    """Compute the recall of each class, `[draws, classes]`; NaN for a class without samples.

    Args:
        labels: `[samples]`.
        predicted: The predicted classes, `[samples]`.
        classes: Number of classes.
        counts: How often each sample counts, `[draws, samples]`.

    Example:
        >>> recall(np.array([0, 0, 1]), np.array([0, 1, 1]), 3, np.ones((1, 3)))
        array([[0.5, 1. , nan]])
    """
    of_class = labels[:, None] == np.arange(classes)
    total = counts @ of_class
    right = counts @ (of_class & (labels == predicted)[:, None])
    return np.divide(right, total, out=np.full(total.shape, np.nan), where=total > 0)


class ClassRecall(Result):
    """The recall of one class, with its frequency and number of test samples.

    Attributes:
        frequency: Its share of the validation samples.
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
    frequency: Labels, inputs: FairnessInputs
) -> tuple[tuple[ClassRecall, ...], list[MetricComparison], list[str]]:
    """Compare the recall of rare classes with that of frequent ones.

    Args:
        frequency: How often each class occurs where the models are used, `[classes]`.
        inputs: The labels and predictions.

    Returns:
        The classes, the rarest first; the metric comparisons; notes on classes that are left out.
    """
    classes = inputs.classes
    samples = np.bincount(inputs.labels, minlength=len(classes))
    enough = samples >= inputs.smallest
    notes = inputs.too_small("Classes", classes, samples)
    comparisons: list[MetricComparison] = []
    if enough.any():
        recalls = [_recalls(inputs, predicted, enough) for predicted in inputs.predicted]
        comparisons.append(
            inputs.compared(
                f"Recall of the worst class, {classes[int(np.nanargmin(recalls[0][0]))]}",
                [np.fmin.reduce(side, axis=1) for side in recalls],
                direction="higher",
                method="The smallest recall of a class, of each model its own worst class, among "
                f"classes with at least {inputs.smallest} test samples.",
            )
        )
        split = head_tail_split(frequency)
        gaps = [
            _mean(side[:, list(split.frequent)]) - _mean(side[:, list(split.rare)])
            for side in recalls
        ]
        if not split.uneven:
            notes.append("The classes are about equally frequent, so none is called rare.")
        elif np.isnan(gaps[0][0]):
            notes.append("The rarest or the most frequent classes have too few test samples.")
        else:
            comparisons.append(
                inputs.compared(
                    "Recall gap between frequent and rare classes",
                    gaps,
                    direction="lower",
                    method="The mean recall of the most frequent third of the classes less that of "
                    f"the rarest third ({', '.join(classes[c] for c in split.rare)}), by how often "
                    "they occur among the validation samples.",
                )
            )
    return _class_recalls(inputs, frequency, samples), comparisons, notes


def _recalls(inputs: FairnessInputs, predicted: Labels, enough: NDArray[np.bool_]) -> Array:
    drawn = inputs.drawn(
        lambda counts: recall(inputs.labels, predicted, len(inputs.classes), counts)
    )
    return np.where(enough, drawn, np.nan)


def _mean(recalls: Array) -> Array:
    """Compute the mean of those that are not NaN, `[draws]`; NaN if there are none."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(recalls, axis=1) / np.isfinite(recalls).sum(axis=1))


def _class_recalls(
    inputs: FairnessInputs, frequency: Labels, samples: Labels
) -> tuple[ClassRecall, ...]:
    right = [
        np.bincount(inputs.labels[predicted == inputs.labels], minlength=len(samples))
        for predicted in inputs.predicted
    ]
    found = []
    for c in np.argsort(frequency, kind="stable"):
        student, *teacher = [
            proportion(int(hits[c]), int(samples[c])) if samples[c] else None for hits in right
        ]
        found.append(
            ClassRecall(
                name=inputs.classes[c],
                frequency=float(frequency[c]) / max(1, int(frequency.sum())),
                samples=int(samples[c]),
                judged=bool(samples[c] >= inputs.smallest),
                student=student,
                teacher=teacher[0] if teacher else None,
            )
        )
    return tuple(found)
