"""Fidelity to the teacher: agreement, KL divergence, error overlap, per class and group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import Resamples, mean, share, shares
from limbeck.evaluate.comparison import Estimate, MetricComparison, compare
from limbeck.evaluate.context import Workload
from limbeck.evaluate.fidelity.error_overlap import (
    Disagreement,
    Overlap,
    error_overlap,
    most_frequent_disagreements,
)
from limbeck.evaluate.metrics import agrees, divergences, log_probabilities, right

if TYPE_CHECKING:
    from limbeck.evaluate.context import EvaluationContext


Values = NDArray[np.float64]
Part = tuple[str, str, NDArray[np.int64]]
"""An attribute, one of its values, and the rows of the samples that have it."""


class Slice(Result):
    """The metrics of student and teacher on the samples of one class or group.

    Attributes:
        attribute: "class", or the attribute of the group.
        name: The class or the group.
        student: The student's accuracy.
        teacher: The teacher's, if there is one.
        difference: Student less teacher.
        agreement: Top-1 agreement.
        kl: KL(teacher || student), in nats.
    """

    attribute: str
    name: str
    samples: int
    student: Estimate
    teacher: Estimate | None
    difference: Estimate | None
    agreement: Estimate | None
    kl: Estimate | None


def parts(
    labels: NDArray[np.int64], classes: Sequence[str], groups: Mapping[str, NDArray[np.str_]]
) -> Iterator[Part]:
    """Yield the rows of every class and of every group that has samples.

    Example:
        >>> [name for _, name, _ in parts(np.array([1, 1]), ("cat", "dog"), {})]
        ['dog']
    """
    for number, name in enumerate(classes):
        rows = np.flatnonzero(labels == number)
        if len(rows):
            yield "class", name, rows
    for attribute, members in groups.items():
        for name in np.unique(members):
            yield attribute, str(name), np.flatnonzero(members == name)


def accuracy_slices(
    found: Sequence[Part],
    student: Values,
    teacher: Values | None = None,
    *,
    same: Values | None = None,
    kl: Values | None = None,
    resamples: Resamples,
) -> tuple[Slice, ...]:
    """Compare both models within each slice.

    Args:
        found: The result of `parts`.
        student: 1 where the student is correct, 0 where not, `[samples]`.
        teacher: The same of the teacher.
        same: 1 where both predict the same class, `[samples]`.
        kl: KL(teacher || student) per sample, `[samples]`.
        resamples: The bootstrap resamples of all samples; each slice uses its part of them.
    """
    kl_estimates: Sequence[Estimate | None] = [None] * len(found)
    if kl is not None:
        kl_estimates = resamples.estimates(
            lambda counts: np.stack(
                [mean(counts[:, rows], kl[rows]) for _, _, rows in found], axis=1
            )
        )
    return tuple(
        Slice(
            attribute=attribute,
            name=name,
            samples=len(rows),
            **dict(shares(student[rows], None if teacher is None else teacher[rows])),
            agreement=None if same is None else share(same[rows]),
            kl=kl_estimate,
        )
        for (attribute, name, rows), kl_estimate in zip(found, kl_estimates, strict=True)
    )


class Fidelity(Result):
    """The fidelity of the student to its teacher.

    Attributes:
        comparisons: Accuracy, agreement and divergence.
        slices: The same per class and per group.
        overlap: The error overlap, if there is a teacher.
        disagreements: The pairs of classes on which they disagree most often.
    """

    comparisons: tuple[MetricComparison, ...]
    slices: tuple[Slice, ...]
    overlap: Overlap | None
    disagreements: tuple[Disagreement, ...]
    notes: tuple[str, ...]


def evaluate(
    context: EvaluationContext, *, n_resamples: int = 1000, margin: float = 0.01, pairs: int = 10
) -> Fidelity:
    """Evaluate the student's fidelity to its teacher, overall and per slice.

    Args:
        context: The two models and the samples.
        n_resamples: Number of bootstrap resamples.
        margin: The non-inferiority margin of accuracy.
        pairs: Number of most frequent disagreements to list.

    Raises:
        InputError: A sensitive feature does not name a group for every sample.
    """
    student, teacher = context.student_predictions, context.teacher_predictions
    found = list(parts(student.labels, context.classes, context.checked_features()))
    resamples = Resamples(len(student), n_resamples=n_resamples, seed=context.seed)
    student_right = right(student)
    teacher_right = None if teacher is None else right(teacher)
    accuracy = compare(
        "Accuracy",
        unit="share",
        direction="higher",
        **dict(shares(student_right, teacher_right)),
        margin=margin,
        method=f"Share of the {len(student)} test samples predicted correctly by the exported "
        "file; the difference is of the same samples.",
    )
    if teacher is None:
        return Fidelity(
            comparisons=(accuracy,),
            slices=accuracy_slices(found, student_right, resamples=resamples),
            overlap=None,
            disagreements=(),
            notes=("There is no teacher: agreement and error overlap cannot be computed.",),
        )
    same = agrees(student, teacher)
    kl = divergences(log_probabilities(teacher.logits), log_probabilities(student.logits))
    slices = accuracy_slices(
        found, student_right, teacher_right, same=same, kl=kl, resamples=resamples
    )
    agreement = compare(
        "Agreement with the teacher",
        unit="share",
        direction="higher",
        student=share(same),
        margin=margin,
        method=f"Share of the {len(student)} test samples of which both predict the same class.",
    )
    divergence = compare(
        "Divergence from the teacher",
        unit="nats",
        direction="lower",
        student=resamples.means(kl[:, None])[0],
        margin=0.0,
        method="Mean KL(teacher || student) of the probabilities at temperature 1, float64.",
    )
    note = (
        f"The table by class and group has {len(slices)} rows: about one 95 % interval in twenty "
        "misses its true value by chance."
    )
    return Fidelity(
        comparisons=(accuracy, agreement, divergence),
        slices=slices,
        overlap=error_overlap(student, teacher, resamples=resamples),
        disagreements=most_frequent_disagreements(student, teacher, context.classes, most=pairs),
        notes=(note,) if len(slices) > 1 else (),
    )


def workload(context: EvaluationContext, **settings: object) -> Workload:
    """Compute the workload: the test samples, unless their predictions are known."""
    return Workload(predictions=context.samples_to_predict)
