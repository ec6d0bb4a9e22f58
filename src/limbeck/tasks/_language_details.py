"""Details of language modelling for a report: agreement and acceptance rate of next tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from limbeck.core.measurement import Metric
from limbeck.tasks._model_output import LOGITS
from limbeck.tasks.details import Details
from limbeck.tasks.scores import Score, of_sums, ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.tasks.scores import Arrays, Sums

TEACHER = "teacher_logits"
"""The batch entry with the teacher's logits, `[n, vocabulary, positions]`."""


def _mean(values: NDArray[np.float64], batch: Arrays, weights: Arrays) -> Sums:
    weight = weights[LOGITS].reshape(batch["labels"].shape).astype(np.float64)
    return np.stack([(weight * values).sum(axis=1), weight.sum(axis=1)], axis=1)


def _same_token(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    same = outputs[LOGITS].argmax(axis=1) == batch[TEACHER].argmax(axis=1)
    return _mean(same.astype(np.float64), batch, weights)


def _overlap(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    # Models of padded vocabularies are compared on the tokens that both have.
    common = min(outputs[LOGITS].shape[1], batch[TEACHER].shape[1])
    student, teacher = (_softmax(one[:, :common]) for one in (outputs[LOGITS], batch[TEACHER]))
    shared = np.minimum(student, teacher).sum(axis=1)
    return _mean(shared.astype(np.float64), batch, weights)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def _relabelled(outputs: Arrays, batch: Arrays) -> Arrays:
    return {**batch, TEACHER: outputs[LOGITS]}


def language_details() -> Details:
    """Return the details of language modelling.

    The acceptance rate is the mean of 1 − TVD(teacher, student), the share of the student's tokens
    that speculative decoding keeps.

    Source: Leviathan et al. 2023, "Fast inference from transformers via speculative decoding".
    """
    return Details(
        agreements=(
            Score(
                Metric(name="token_agreement", title="Agreement of the most probable next token"),
                _same_token,
                of_sums(ratio),
            ),
            Score(
                Metric(name="acceptance_rate", title="Acceptance rate (1 − TVD)"),
                _overlap,
                of_sums(ratio),
            ),
        ),
        relabelled=_relabelled,
    )
