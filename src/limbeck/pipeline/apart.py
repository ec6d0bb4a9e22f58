"""Teacher-student comparison: class similarity of soft targets, and disagreements."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.report.result import Disagreement

if TYPE_CHECKING:
    from limbeck.data.split import Split
    from limbeck.export.predictor import Answers

SHOWN = 12
SIMILARITY_TEMPERATURE = 4.0


def similarity(given: Answers, classes: int) -> tuple[tuple[float, ...], ...]:
    """Compute the mean softened teacher probabilities per class, one class per row."""
    soft = _softmax(given.logits, SIMILARITY_TEMPERATURE)
    rows = [soft[given.labels == number] for number in range(classes)]
    none = (0.0,) * classes
    return tuple(tuple(row.mean(axis=0).tolist()) if len(row) else none for row in rows)


def apart(teacher: Answers, student: Answers) -> list[int]:
    """Return the samples with different top classes, by descending student confidence."""
    rows = np.flatnonzero(teacher.logits.argmax(1) != student.logits.argmax(1))
    sureness = _softmax(student.logits)[rows].max(axis=1)
    return [int(row) for row in rows[np.argsort(-sureness, kind="stable")]]


def disagreement(index: int, split: Split, teacher: Answers, student: Answers) -> Disagreement:
    """Build the record of one sample with both predictions."""
    raw = split.raw(index)
    picture = None
    if "picture" in raw:
        buffer = io.BytesIO()
        raw["picture"].save(buffer, format="PNG")
        picture = base64.b64encode(buffer.getvalue()).decode()
    return Disagreement(
        index=index,
        label=int(teacher.labels[index]),
        teacher=tuple(_softmax(teacher.logits[index : index + 1])[0].tolist()),
        student=tuple(_softmax(student.logits[index : index + 1])[0].tolist()),
        picture=picture,
        text=raw.get("text"),
    )


def _softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
