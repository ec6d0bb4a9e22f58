"""Attention scores and probabilities from queries and keys, for any attention kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor

from limbeck.connectors.base import ConnectorOutput, PairConnector
from limbeck.core.tensors import Features
from limbeck.errors import InputError, Problem

_MASKED_SCORE = -1e4  # the mask value of transformers for padding


class Scores(PairConnector):
    r"""Attention scores of student and teacher, from queries and keys `[samples, tokens, width]`.

    $$\frac{Q K^\top}{\sqrt{d}} \text{ for each head}$$

    Scores of padded keys are -1e4, as in transformers. There are no parameters.

    Args:
        student_heads: The number of the student's heads.
        teacher_heads: The number of the teacher's heads.
        softmax: Whether to return probabilities instead of scores.
    """

    def __init__(self, student_heads: int, teacher_heads: int, *, softmax: bool) -> None:
        super().__init__()
        self._heads = (student_heads, teacher_heads)
        self._softmax = softmax

    def forward(
        self, student: Features, teacher: Features, inputs: Mapping[str, Tensor]
    ) -> ConnectorOutput:
        """Return scores `[samples, heads, tokens, tokens]` of student and teacher."""
        sides = zip((student, teacher), self._heads, strict=True)
        mask = inputs.get("mask")
        scores = (_scores(query, key, heads, mask) for (query, key), heads in sides)
        first, second = (side.softmax(-1) if self._softmax else side for side in scores)
        return ConnectorOutput(first, second)


def build_scores(
    student: Features, teacher: Features, *, student_heads: PositiveInt, teacher_heads: PositiveInt
) -> PairConnector:
    """Build the connector of `attention_mse`; see `Scores`."""
    return _build((student, student_heads), (teacher, teacher_heads), softmax=False)


def build_probabilities(
    student: Features, teacher: Features, *, student_heads: PositiveInt, teacher_heads: PositiveInt
) -> PairConnector:
    """Build the connector of `attention_kl`; see `Scores`."""
    return _build((student, student_heads), (teacher, teacher_heads), softmax=True)


def _build(
    student: tuple[Features, int], teacher: tuple[Features, int], *, softmax: bool
) -> PairConnector:
    problems = []
    for side, (given, heads) in (("student", student), ("teacher", teacher)):
        if not isinstance(given, Sequence) or len(given) != 2:
            allowed = "two layers: that of the queries, and that of the keys"
            problems.append(Problem(side, type(given).__name__, allowed))
        elif given[0].shape[-1] % heads:
            allowed = f"a number of heads that divides the width {given[0].shape[-1]}"
            problems.append(Problem(f"connector.{side}_heads", heads, allowed))
    if problems:
        raise InputError(*problems)
    return Scores(student[1], teacher[1], softmax=softmax)


def _scores(query: Tensor, key: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    query, key = (
        side.to(torch.promote_types(side.dtype, torch.float32))
        .unflatten(-1, (heads, -1))
        .transpose(1, 2)
        for side in (query, key)
    )
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return scores if mask is None else scores.masked_fill(~mask[:, None, None, :], _MASKED_SCORE)
