"""Losses over transformer attention and token relations: one value per sample.

Values are means over heads, queries and keys. A `mask` marks the tokens that are not padding;
padding is excluded from the mean, whatever its values.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses.divergence import forward_kl
from limbeck.losses.inputs import check_floating, check_mask, check_same_shape, not_negative
from limbeck.losses.transformer import check_axes, mean_over_tokens, without_padding
from limbeck.precision import precise, precise_pair, without_autocast

_MASKED_SCORE = -1e2  # at most this, TinyBERT's code treats a score as that of a padded key


def attention_kl(
    student: Float[Tensor, "units student_heads *queries keys"],
    teacher: Float[Tensor, "units teacher_heads *queries keys"],
    *,
    heads: Literal["match", "mean"] = "match",
    mask: Bool[Tensor, "samples tokens"] | None = None,
) -> Float[Tensor, " units"]:
    r"""Compute the KL divergence of attention distributions (MiniLM).

    With a row of probabilities over the keys for each head h and query i:

    $$\frac1{H\,n} \sum_{h,i} KL(A^t_{hi} \| A^s_{hi})$$

    Keys of probability 0 on both sides (padding) contribute 0. If only the student's is 0, the
    teacher is conditioned on the keys that the student can attend to, as in `divergence`.

    Args:
        student: Attention probabilities, `[samples, heads, queries, keys]` or `[units, heads,
            keys]`; the last dimension sums to 1.
        teacher: The same for the teacher. No gradient reaches them.
        heads: `match` compares head by head and requires equal numbers; `mean` compares the means
            over all heads, for any numbers.
        mask: True for tokens that are not padding, `[samples, queries]`: the mean is over these
            queries. `[units, heads, keys]` has no queries to mask.

    Returns:
        One value per sample in nats, `[samples]`, never negative; float32 for half precision. Its
        published weight is 1.

    Raises:
        InputError: Different shapes, too few dimensions, integer dtypes, an unknown `heads`, or a
            mask of another shape.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[1.0, 0.0]]])
        >>> attention_kl(student, teacher)
        tensor([0.6931])

    Source: Wang et al. 2020 (MiniLM).
    """
    allowed = "[samples, heads, queries, keys] or [units, heads, keys]"
    check_axes(student, 3, where="attention_kl.student", allowed=allowed)
    check_axes(teacher, 3, where="attention_kl.teacher", allowed=allowed)
    _check_heads(student, where="attention_kl.student")
    _check_heads(teacher, where="attention_kl.teacher")
    check_choice(heads, ("match", "mean"), where="attention_kl.heads")
    ours, theirs = precise_pair(student, teacher)
    if heads == "mean":
        ours, theirs = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
    check_same_shape(ours, theirs, where="attention_kl.teacher")
    ours, theirs = (
        without_padding(x.movedim(1, -2), mask, rest=2, where="attention_kl.mask")
        for x in (ours, theirs)
    )
    return mean_over_tokens(_divergence_of_probabilities(ours, theirs).mean(-1), mask)


def _check_heads(attention: Tensor, *, where: str) -> None:
    if attention.shape[1] == 0:
        raise InputError(
            Problem(where, tuple(attention.shape), "at least one head, the second axis")
        )


def _divergence_of_probabilities(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute KL(teacher ‖ student) of each row, conditioned on the student's support."""
    numbers = torch.finfo(student.dtype)
    least = (
        numbers.tiny / numbers.eps
    )  # below this, 1/q, the gradient or a rescaling would overflow
    impossible = student < least
    heard = teacher.masked_fill(impossible | (teacher < least), 0)
    total, kept = teacher.sum(-1, keepdim=True), heard.sum(-1, keepdim=True)
    heard = heard * (total / kept.masked_fill(kept == 0, 1))
    surprise = student.masked_fill(impossible, 1).log()
    return not_negative((heard * (heard.masked_fill(heard == 0, 1).log() - surprise)).sum(-1))


def attention_mse(
    student: Float[Tensor, "samples heads queries keys"],
    teacher: Float[Tensor, "samples heads queries keys"],
    *,
    mask: Bool[Tensor, "samples tokens"] | None = None,
) -> Float[Tensor, " samples"]:
    r"""Compute the mean squared error of attention scores before softmax (TinyBERT).

    With scores a for each of H heads, n queries and m keys:

    $$\frac1{H\,n\,m} \sum_{h,i,j} (a^t_{hij} - a^s_{hij})^2$$

    A score of at most −100, including -inf, is treated as that of a padded key and counts as 0 on
    both sides, as in the published code. Without a mask the mean is over all keys and queries,
    including padding, as there.

    Args:
        student: Scores, `[samples, heads, queries, keys]`.
        teacher: Scores, the same shape. No gradient reaches them.
        mask: True for tokens that are not padding, `[samples, tokens]`, for self-attention: the
            mean is over these queries and keys.

    Returns:
        One value per sample, `[samples]`; float32 for half-precision scores. Its published weight
        is 1.

    Raises:
        InputError: Different shapes, too few dimensions, integer dtypes, or a mask of another
            shape.

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 1, 2, 2)
        >>> attention_mse(student, torch.tensor([[[[1.0, -1e4], [3.0, -1e4]]]]))
        tensor([2.5000])

    Source: Jiao et al. 2020 (TinyBERT).
    """
    allowed = "[samples, heads, queries, keys]"
    check_axes(student, 4, where="attention_mse.student", allowed=allowed)
    _check_heads(student, where="attention_mse.student")
    check_floating(teacher, where="attention_mse.teacher")
    check_same_shape(student, teacher, where="attention_mse.teacher")
    if mask is not None:
        for axis in (2, 3):
            check_mask(mask, (student.shape[0], student.shape[axis]), where="attention_mse.mask")
        mask = (mask.unsqueeze(1) & mask.unsqueeze(2)).flatten(1)
    ours, theirs = (_real_scores(x, mask) for x in precise_pair(student, teacher))
    return mean_over_tokens((ours - theirs).square().mean(-1), mask)


def _real_scores(scores: Tensor, pairs: Tensor | None) -> Tensor:
    """Return `[samples, pairs of tokens, heads]`, with 0 for masked scores."""
    scores = scores.masked_fill(scores <= _MASKED_SCORE, 0)
    flat = scores.movedim(1, -1).flatten(1, 2)
    return without_padding(flat, pairs, rest=1, where="attention_mse.mask")


def minilm_relation(
    student: Float[Tensor, "samples tokens student_features"],
    teacher: Float[Tensor, "samples tokens teacher_features"],
    *,
    heads: int = 12,
    mask: Bool[Tensor, "samples tokens"] | None = None,
) -> Float[Tensor, " samples"]:
    r"""Compute the self-attention relation loss of queries, keys or values (MiniLMv2).

    The features of A (all queries, all keys, or all values of a layer) are divided into H relation
    heads of d features. For each head and token i:

    $$R = \mathrm{softmax}\left(\frac{A_h A_h^\top}{\sqrt d}\right), \quad
    \frac1{H\,n} \sum_{h,i} KL(R^t_{hi} \| R^s_{hi})$$

    The widths of student and teacher may differ, and their numbers of attention heads, too.

    Args:
        student: Queries, keys or values, `[samples, tokens, features]`, all heads concatenated.
        teacher: The same for the teacher, with its own number of features. No gradient reaches
            them.
        heads: H, a divisor of the features of both; 48 in the paper for a teacher of BERT-base's
            size and 64 for a large one.
        mask: True for tokens that are not padding, `[samples, tokens]`: padding has no relations; a
            sample of padding only is 0.

    Returns:
        One value per sample in nats, `[samples]`, never negative; float32 for half precision. The
        paper sums queries, keys and values with a weight of 1 each.

    Raises:
        InputError: Different numbers of samples or tokens, too few dimensions, integer dtypes,
            heads that do not divide the features, or a mask of another shape.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2, 4), torch.eye(2).reshape(1, 2, 2)
        >>> minilm_relation(student, teacher, heads=2)
        tensor([0.0555])

    Source: Wang et al. 2021 (MiniLMv2).
    """
    _check_related(student, teacher, heads)
    if student.shape[1] == 0:
        return precise(student).sum((1, 2))
    ours, theirs = (_scores(x, heads, mask) for x in precise_pair(student, teacher))
    rows = forward_kl(ours.flatten(0, 2), theirs.flatten(0, 2), 1.0).unflatten(0, ours.shape[:3])
    return mean_over_tokens(rows.mean(1), mask)


def _scores(states: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Return the products of tokens, `[samples, heads, tokens, tokens]`; padded keys are -inf."""
    states = without_padding(states, mask, rest=1, where="minilm_relation.mask")
    split = states.unflatten(-1, (heads, -1)).transpose(1, 2)
    with without_autocast(split):
        scores = split @ split.transpose(-1, -2) / math.sqrt(split.shape[-1])
    return scores if mask is None else scores.masked_fill(~mask[:, None, None, :], -math.inf)


def _check_related(student: Tensor, teacher: Tensor, heads: object) -> None:
    name = "minilm_relation"
    for side, states in (("student", student), ("teacher", teacher)):
        where = f"{name}.{side}"
        check_floating(states, where=where)
        if states.ndim != 3:
            allowed = "a tensor [samples, tokens, features]"
            raise InputError(Problem(where, tuple(states.shape), allowed))
        features = states.shape[2]
        if type(heads) is not int or not 0 < heads <= features or features % heads:
            allowed = f"a whole number that divides the {side}'s {features} features"
            raise InputError(Problem(f"{name}.heads", heads, allowed))
    if student.shape[:2] != teacher.shape[:2]:
        given = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        raise InputError(Problem(f"{name}.teacher", given, "the same samples and tokens"))
