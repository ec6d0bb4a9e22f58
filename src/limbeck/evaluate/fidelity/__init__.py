"""Fidelity to the teacher: agreement, KL divergence, error overlap, disagreements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import Resamples, share, shares
from limbeck.evaluate.comparison import MetricComparison, compare
from limbeck.evaluate.context import Workload
from limbeck.evaluate.fidelity.error_overlap import (
    Disagreement,
    Overlap,
    error_overlap,
    most_frequent_disagreements,
)
from limbeck.evaluate.fidelity.slices import Slice, accuracy_slices, parts
from limbeck.evaluate.metrics import divergences, log_probabilities, right

if TYPE_CHECKING:
    from limbeck.evaluate.context import EvaluationContext
    from limbeck.export.predictor import Predictions


class Fidelity(Result):
    """The fidelity of the student to its teacher.

    Attributes:
        comparisons: Accuracy, agreement and divergence.
        slices: The same per class and per group.
        overlap: The error overlap, if there is a teacher.
        disagreements: The pairs of classes on which they disagree most often.
        notes: Reasons for what could not be computed.
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
        InputError: An attribute of `context.groups` does not name a group for every sample.
    """
    student, teacher = context.student_predictions, context.teacher_predictions
    found = list(parts(student.labels, context.classes, context.sensitive_features))
    resamples = Resamples(len(student), n_resamples=n_resamples, seed=context.seed)
    if teacher is None:
        return Fidelity(
            comparisons=(_accuracy(student, None, margin),),
            slices=accuracy_slices(found, right(student), resamples=resamples),
            overlap=None,
            disagreements=(),
            notes=("There is no teacher: agreement and shared errors cannot be told.",),
        )
    same = (student.logits.argmax(axis=1) == teacher.logits.argmax(axis=1)).astype(np.float64)
    kl = divergences(log_probabilities(teacher.logits), log_probabilities(student.logits))
    slices = accuracy_slices(
        found, right(student), right(teacher), same=same, kl=kl, resamples=resamples
    )
    return Fidelity(
        comparisons=(
            _accuracy(student, teacher, margin),
            compare(
                "Agreement with the teacher",
                unit="share",
                direction="higher",
                student=share(same),
                margin=margin,
                method=f"Share of the {len(student)} test samples on which both give the same "
                "class first.",
            ),
            compare(
                "Divergence from the teacher",
                unit="nats",
                direction="lower",
                student=resamples.means(kl[:, None])[0],
                margin=0.0,
                method="Mean KL(teacher || student) of the probabilities at temperature 1, "
                "float64.",
            ),
        ),
        slices=slices,
        overlap=error_overlap(student, teacher, resamples=resamples),
        disagreements=most_frequent_disagreements(student, teacher, context.classes, most=pairs),
        notes=_notes(slices),
    )


def _accuracy(student: Predictions, teacher: Predictions | None, margin: float) -> MetricComparison:
    both = shares(right(student), None if teacher is None else right(teacher))
    return compare(
        "Accuracy",
        unit="share",
        direction="higher",
        **dict(both),
        margin=margin,
        method=f"Share of the {len(student)} test samples answered right by the file that ships; "
        "the difference is of the same samples.",
    )


def _notes(slices: tuple[Slice, ...]) -> tuple[str, ...]:
    if len(slices) < 2:
        return ()
    return (
        f"{len(slices)} slices are compared: by chance alone about one interval in twenty does not "
        "hold its true value.",
    )


def workload(context: EvaluationContext, **settings: object) -> Workload:
    """Compute the workload: the test samples, unless their predictions are known."""
    return Workload(predictions=context.to_answer)
