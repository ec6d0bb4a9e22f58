"""Error overlap of student and teacher, and their most frequent disagreements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import Counts, Resamples, mean
from limbeck.evaluate.comparison import Estimate

if TYPE_CHECKING:
    from limbeck.export.predictor import Predictions


Values = NDArray[np.float64]


class Overlap(Result):
    """The overlap of the student's errors with the teacher's.

    A share is None where there are no errors to compute it from.

    Attributes:
        both_right: Number of samples that both predict correctly.
        only_student: Number that only the student predicts correctly.
        only_teacher: Number that only the teacher predicts correctly.
        same_error: Number on which both predict the same wrong class.
        other_error: Number on which both are wrong, with different classes.
        shared: Share of the student's errors that are also the teacher's.
        shared_if_independent: `shared` under independent errors: the teacher's error rate.
        same_prediction: Share of the student's errors on which the teacher predicts the same class.
        jaccard: Errors of both, divided by errors of either.
        jaccard_if_independent: `jaccard` under independent errors.
        consistency: Cohen's kappa of correctness: 0 if independent, 1 if identical.
    """

    both_right: int
    only_student: int
    only_teacher: int
    same_error: int
    other_error: int
    shared: Estimate | None
    shared_if_independent: float
    same_prediction: Estimate | None
    jaccard: Estimate | None
    jaccard_if_independent: float | None
    consistency: Estimate | None


class Disagreement(Result):
    """A pair of predictions that differ, its count, and on how many samples each is correct."""

    teacher: str
    student: str
    count: int
    teacher_right: int
    student_right: int


def error_overlap(student: Predictions, teacher: Predictions, *, resamples: Resamples) -> Overlap:
    r"""Compute the error overlap of student and teacher, and its values under independence.

    $$\mathrm{shared} = \frac{|E_S \cap E_T|}{|E_S|}, \qquad
      J = \frac{|E_S \cap E_T|}{|E_S \cup E_T|}, \qquad
      \kappa = \frac{c - c_0}{1 - c_0}$$

    with E the samples that each gets wrong, c the share on which both are correct or both wrong,
    and $c_0$ that share if they erred independently at their error rates.

    Source: Geirhos et al., NeurIPS 2020 (arXiv:2006.16736), for the consistency.
    """
    own, reference = student.logits.argmax(axis=1), teacher.logits.argmax(axis=1)
    wrong, teacher_wrong = own != student.labels, reference != student.labels
    both, same = wrong & teacher_wrong, wrong & (own == reference)
    columns = np.stack([wrong, teacher_wrong, both, same], axis=1).astype(np.float64)
    estimates = resamples.estimates(lambda counts: _shares(counts, columns))
    shared, same_prediction, jaccard, consistency = (
        None if math.isnan(estimate.value) else estimate for estimate in estimates
    )
    rate, teacher_rate = float(wrong.mean()), float(teacher_wrong.mean())
    either = rate + teacher_rate - rate * teacher_rate
    return Overlap(
        both_right=int((~wrong & ~teacher_wrong).sum()),
        only_student=int((teacher_wrong & ~wrong).sum()),
        only_teacher=int((wrong & ~teacher_wrong).sum()),
        same_error=int(same.sum()),
        other_error=int((both & ~same).sum()),
        shared=shared,
        shared_if_independent=teacher_rate,
        same_prediction=same_prediction,
        jaccard=jaccard,
        jaccard_if_independent=rate * teacher_rate / either if either else None,
        consistency=consistency,
    )


def _shares(counts: Counts, columns: Values) -> Values:
    """Compute shared, same answer, Jaccard and kappa per draw: `[draws, 4]`."""
    wrong, teacher_wrong, both, same = mean(counts, columns).T
    independent = wrong * teacher_wrong + (1 - wrong) * (1 - teacher_wrong)
    consistent = 1 - wrong - teacher_wrong + 2 * both
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = np.where(independent < 1, (consistent - independent) / (1 - independent), np.nan)
        jaccard = both / (wrong + teacher_wrong - both)
        return np.stack([both / wrong, same / wrong, jaccard, kappa], axis=1)


def most_frequent_disagreements(
    student: Predictions, teacher: Predictions, classes: Sequence[str], *, most: int = 10
) -> tuple[Disagreement, ...]:
    """Return at most `most` pairs of classes on which the two disagree, the most frequent first.

    Example:
        >>> from limbeck.export.predictor import Predictions
        >>> student = Predictions(np.array([[0.0, 1.0]], dtype=np.float32), np.array([1]))
        >>> teacher = Predictions(np.array([[1.0, 0.0]], dtype=np.float32), np.array([1]))
        >>> [pair] = most_frequent_disagreements(student, teacher, ("cat", "dog"))
        >>> pair.teacher, pair.student, pair.count, pair.student_right
        ('cat', 'dog', 1, 1)
    """
    predicted = np.stack([teacher.logits.argmax(axis=1), student.logits.argmax(axis=1)], axis=1)
    differ = predicted[:, 0] != predicted[:, 1]
    pairs, count = np.unique(predicted[differ], axis=0, return_counts=True)
    labels = student.labels[differ]
    found = []
    for k in np.argsort(-count, kind="stable")[:most]:
        of_pair = (predicted[differ] == pairs[k]).all(axis=1)
        teacher_right, student_right = (labels[of_pair, None] == pairs[k]).sum(axis=0)
        found.append(
            Disagreement(
                teacher=classes[pairs[k, 0]],
                student=classes[pairs[k, 1]],
                count=int(count[k]),
                teacher_right=int(teacher_right),
                student_right=int(student_right),
            )
        )
    return tuple(found)
