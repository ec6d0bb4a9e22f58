"""Fidelity to the teacher: agreement, KL divergence, error overlap, disagreements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.finding import Finding, find
from limbeck.evaluate.interval import Result
from limbeck.evaluate.overlap import Overlap, Parting, error_overlap, partings
from limbeck.evaluate.paired import share, shares
from limbeck.evaluate.probabilities import divergences, log_probabilities, right
from limbeck.evaluate.slices import Slice, accuracy_slices, parts
from limbeck.evaluate.workload import Workload

if TYPE_CHECKING:
    from limbeck.evaluate.sitting import Sitting
    from limbeck.export.predictor import Answers


class Fidelity(Result):
    """The fidelity of the student to its teacher.

    Attributes:
        findings: Accuracy, agreement and divergence.
        slices: The same per class and per group.
        overlap: The error overlap, if there is a teacher.
        partings: The pairs of classes on which they disagree most often.
        notes: Reasons for what could not be computed.
    """

    findings: tuple[Finding, ...]
    slices: tuple[Slice, ...]
    overlap: Overlap | None
    partings: tuple[Parting, ...]
    notes: tuple[str, ...]


def ask(sitting: Sitting, *, draws: int = 1000, margin: float = 0.01, pairs: int = 10) -> Fidelity:
    """Evaluate the student's fidelity to its teacher, overall and per slice.

    Args:
        sitting: The two models and the samples.
        draws: Number of bootstrap resamples.
        margin: The non-inferiority margin of accuracy.
        pairs: Number of most frequent disagreements to list.

    Raises:
        InputError: An attribute of `sitting.groups` does not name a group for every sample.
    """
    student, teacher = sitting.student_answers, sitting.teacher_answers
    found = list(parts(student.labels, sitting.classes, sitting.groups))
    resamples = Resamples(len(student), draws=draws, seed=sitting.seed)
    if teacher is None:
        return Fidelity(
            findings=(_accuracy(student, None, margin),),
            slices=accuracy_slices(found, right(student), resamples=resamples),
            overlap=None,
            partings=(),
            notes=("There is no teacher: agreement and shared errors cannot be told.",),
        )
    same = (student.logits.argmax(axis=1) == teacher.logits.argmax(axis=1)).astype(np.float64)
    kl = divergences(log_probabilities(teacher.logits), log_probabilities(student.logits))
    slices = accuracy_slices(
        found, right(student), right(teacher), same=same, kl=kl, resamples=resamples
    )
    return Fidelity(
        findings=(
            _accuracy(student, teacher, margin),
            find(
                "Agreement with the teacher",
                unit="share",
                better="higher",
                student=share(same),
                margin=margin,
                how=f"Share of the {len(student)} test samples on which both give the same class "
                "first.",
            ),
            find(
                "Divergence from the teacher",
                unit="nats",
                better="lower",
                student=resamples.means(kl[:, None])[0],
                margin=0.0,
                how="Mean KL(teacher || student) of the probabilities at temperature 1, float64.",
            ),
        ),
        slices=slices,
        overlap=error_overlap(student, teacher, resamples=resamples),
        partings=partings(student, teacher, sitting.classes, most=pairs),
        notes=_notes(slices),
    )


def _accuracy(student: Answers, teacher: Answers | None, margin: float) -> Finding:
    both = shares(right(student), None if teacher is None else right(teacher))
    return find(
        "Accuracy",
        unit="share",
        better="higher",
        **dict(both),
        margin=margin,
        how=f"Share of the {len(student)} test samples answered right by the file that ships; the "
        "difference is of the same samples.",
    )


def _notes(slices: tuple[Slice, ...]) -> tuple[str, ...]:
    if len(slices) < 2:
        return ()
    return (
        f"{len(slices)} slices are compared: by chance alone about one interval in twenty does not "
        "hold its true value.",
    )


def workload(sitting: Sitting, **settings: object) -> Workload:
    """Compute the workload: the test samples, unless their predictions are known."""
    return Workload(predictions=sitting.to_answer)
