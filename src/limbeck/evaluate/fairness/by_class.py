"""Recall per class, of rare classes against frequent ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.fairness import rare
from limbeck.evaluate.fairness.by_group import share
from limbeck.evaluate.fairness.drawn import Array, Before, compared
from limbeck.evaluate.finding import Estimate, Finding
from limbeck.evaluate.interval import Result


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
    frequency: NDArray[np.int64], before: Before
) -> tuple[tuple[ClassRecall, ...], list[Finding], list[str]]:
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
    findings: list[Finding] = []
    if enough.any():
        recalls = [
            np.where(enough, _recalls(before, predicted), np.nan) for predicted in before.predicted
        ]
        findings.append(_worst(before, recalls))
        between = rare.ends(frequency)
        gap = [rare.gap(side, between) for side in recalls]
        if not between.uneven:
            notes.append("The classes are about equally frequent, so none is called rare.")
        elif np.isnan(gap[0][0]):
            notes.append("The rarest or the most frequent classes have too few test samples.")
        else:
            findings.append(_gap(before, gap, between))
    order = np.argsort(frequency, kind="stable")
    return _figures(before, frequency, total, order), findings, notes


def _too_small(before: Before, total: NDArray[np.int64]) -> list[str]:
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


def _recalls(before: Before, predicted: NDArray[np.int64]) -> Array:
    return before.drawn(
        lambda counts: rare.recall(before.labels, predicted, len(before.classes), counts)
    )


def _worst(before: Before, recalls: list[Array]) -> Finding:
    name = before.classes[int(np.nanargmin(recalls[0][0]))]
    return compared(
        f"Recall of the worst class, {name}",
        [rare.worst(side) for side in recalls],
        samples=len(before.labels),
        better="higher",
        how="The smallest share of a class that is recognised, of each model its own worst class, "
        f"among classes with at least {before.smallest} test samples.",
    )


def _gap(before: Before, gap: list[Array], between: rare.Ends) -> Finding:
    names = ", ".join(before.classes[c] for c in between.rare)
    return compared(
        "Recall gap between frequent and rare classes",
        gap,
        samples=len(before.labels),
        better="lower",
        how="The mean recall of the most frequent third of the classes less that of the rarest "
        f"third ({names}), by how often they occur among the validation samples.",
    )


def _figures(
    before: Before,
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
