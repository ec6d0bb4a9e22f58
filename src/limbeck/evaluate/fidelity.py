"""Fidelity of the student to the teacher, and parity of the exported file with the torch model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from limbeck.errors import LimbeckError
from limbeck.evaluate.interval import Interval, Result, wilson
from limbeck.evaluate.probabilities import divergences, log_probabilities

if TYPE_CHECKING:
    from limbeck.export.predictor import Answers


class Fidelity(Result):
    """Student-teacher fidelity: top-1 agreement, and mean KL(teacher || student) in nats."""

    agreement: float
    interval: Interval
    kl: float


class Parity(Result):
    """A comparison of two runtimes on one model: logit differences, whether within tolerance."""

    max_abs_difference: float
    mean_abs_difference: float
    agreement: float
    tolerance: float
    within: bool
    samples: int


def fidelity(student: Answers, teacher: Answers) -> Fidelity:
    r"""Compute the fidelity of the student's predictions to the teacher's.

    $$\mathrm{KL} = \frac1n \sum_i \sum_c p_{ic} (\log p_{ic} - \log q_{ic})$$

    with p the teacher's probabilities and q the student's, both at temperature 1, computed in
    float64.

    Raises:
        LimbeckError: The two did not predict the same samples over the same classes.

    Example:
        >>> from limbeck.export.predictor import Answers
        >>> one = Answers(np.array([[2.0, 1.0]], dtype=np.float32), np.array([0]))
        >>> two = Answers(np.array([[3.0, 1.0]], dtype=np.float32), np.array([0]))
        >>> round(fidelity(two, one).kl, 4)
        0.0826
    """
    _same_samples(student, teacher)
    divergence = divergences(*(log_probabilities(one.logits) for one in (teacher, student)))
    same = int((student.logits.argmax(axis=1) == teacher.logits.argmax(axis=1)).sum())
    return Fidelity(
        agreement=same / len(student),
        interval=wilson(same, len(student)),
        kl=float(divergence.mean()),
    )


def parity(reference: Answers, exported: Answers, *, tolerance: float) -> Parity:
    """Compare two runtimes on one model: absolute differences of logits.

    Args:
        reference: The predictions of torch.
        exported: The exported file's predictions of the same samples.
        tolerance: The largest absolute difference allowed.

    Raises:
        LimbeckError: The two did not predict the same samples over the same classes.
    """
    _same_samples(exported, reference)
    with np.errstate(invalid="ignore"):
        difference = np.abs(reference.logits.astype(np.float64) - exported.logits)
    # Minus infinity on both sides (a class that both exclude) is no difference.
    difference[reference.logits == exported.logits] = 0.0
    largest = float(difference.max())
    same = reference.logits.argmax(axis=1) == exported.logits.argmax(axis=1)
    return Parity(
        max_abs_difference=largest,
        mean_abs_difference=float(difference.mean()),
        agreement=float(same.mean()),
        tolerance=tolerance,
        within=largest <= tolerance,
        samples=len(exported),
    )


def _same_samples(one: Answers, other: Answers) -> None:
    if one.logits.shape != other.logits.shape or not np.array_equal(one.labels, other.labels):
        raise LimbeckError(
            f"two sets of answers cannot be compared: {one.logits.shape} beside "
            f"{other.logits.shape} [samples, classes], or different labels. Both have to answer "
            "the same split in the same order."
        )
