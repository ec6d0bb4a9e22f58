"""Fidelity to the teacher: agreement, KL divergence, error overlap, disagreements."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from limbeck.evaluate.metrics import agrees, divergences, log_probabilities, right

if TYPE_CHECKING:
    from limbeck.evaluate.context import EvaluationContext


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
        InputError: A sensitive feature does not name a group for every sample.
    """
    student, teacher = context.student_predictions, context.teacher_predictions
    found = list(parts(student.labels, context.classes, context.sensitive_features))
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
        f"{len(slices)} slices are compared: by chance alone about one interval in twenty does not "
        "contain its true value."
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
