"""Top-1 accuracy, the confusion matrix, and the packed mask of correct predictions."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.interval import Interval, Result, wilson

if TYPE_CHECKING:
    from limbeck.export.predictor import Answers


class Accuracy(Result):
    """The top-1 accuracy, with Wilson's interval over the samples."""

    value: float
    interval: Interval
    correct: int
    total: int


def accuracy(answers: Answers) -> Accuracy:
    """Compute the top-1 accuracy.

    Args:
        answers: Logits `[n, classes]` and labels `[n]`, with n at least one.

    Example:
        >>> from limbeck.export.predictor import Answers
        >>> logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
        >>> accuracy(Answers(logits, np.array([0, 1, 1, 1]))).value
        0.75
    """
    correct = int((answers.logits.argmax(axis=1) == answers.labels).sum())
    total = len(answers)
    return Accuracy(
        value=correct / total, interval=wilson(correct, total), correct=correct, total=total
    )


def confusion(answers: Answers) -> tuple[tuple[int, ...], ...]:
    """Compute the confusion matrix: counts of samples per label (row) and predicted class (column).

    Example:
        >>> from limbeck.export.predictor import Answers
        >>> logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], dtype=np.float32)
        >>> confusion(Answers(logits, np.array([0, 1, 1])))
        ((1, 0), (1, 1))
    """
    classes = answers.logits.shape[1]
    cells = answers.labels * classes + answers.logits.argmax(axis=1)
    counts = np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
    return tuple(tuple(int(count) for count in row) for row in counts)


def pack_right(answers: Answers) -> str:
    """Pack whether each prediction is correct into one bit per sample, in base64.

    Example:
        >>> from limbeck.export.predictor import Answers
        >>> logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], dtype=np.float32)
        >>> unpack_right(pack_right(Answers(logits, np.array([0, 1, 1]))), 3)
        array([ True,  True, False])
    """
    correct = answers.logits.argmax(axis=1) == answers.labels
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpack_right(packed: str, total: int) -> NDArray[np.bool_] | None:
    """Unpack the result of `pack_right` into `[total]`; None if the number of samples differs."""
    try:
        raw = base64.b64decode(packed, validate=True)
    except binascii.Error:
        return None
    if len(raw) != (total + 7) // 8 or not total:
        return None
    return np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=total).astype(bool)
