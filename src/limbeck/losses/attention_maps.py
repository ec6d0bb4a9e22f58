"""Losses over attention maps of features (AT, FT, NST) and of transformers (MiniLM, TinyBERT).

The attention of a feature map is its activation strength at each position.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from limbeck.core.numbers import is_number
from limbeck.core.tensors import precise, precise_pair, unit_length, without_autocast
from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses._inputs import (
    check_axes,
    check_floating,
    check_mask,
    check_same_shape,
    feature_pair,
    map_pair,
)
from limbeck.losses._kinds import not_negative
from limbeck.losses._maps import aligned, mean_per_sample, products
from limbeck.losses._types import Features, Mask, PerElement, PerSample
from limbeck.losses.divergences import forward_kl
from limbeck.losses.transformers import mask_padding, mean_over_tokens

MapNorm: TypeAlias = Literal["mean", "sum"]
FactorForm: TypeAlias = Literal["map", "factor"]
Distance: TypeAlias = Literal["l1", "l2"]
Kernel: TypeAlias = Literal["polynomial", "linear"]
Power: TypeAlias = Annotated[float, Field(ge=1, le=8)]


def attention_transfer(
    student: Features, teacher: Features, *, power: Power = 2.0, norm: MapNorm = "mean"
) -> PerSample:
    r"""Compute the attention transfer loss (AT) between spatial attention maps.

    With a map's attention A at each of its M positions, normalised to a:

    $$
    A_m = \frac1C \sum_c |F_{cm}|^p \qquad a = A / \|A\|_2 \qquad
    \text{mean} = \frac1M \|a^S - a^T\|_2^2 \qquad \text{sum} = \|a^S - a^T\|_2^2
    $$

    Scale: `mean` is that of the CIFAR-100 benchmark and of the authors' code, whose weight (1000)
    applies unchanged; `sum` is M times as much. A map of zeros counts as zero.

    Args:
        student: Maps `[samples, channels, height, width]` or sequences `[samples, tokens, d]`.
        teacher: The same, with any number of channels. A larger map is average-pooled to the
            smaller.
        power: p, from 1 to 8. Higher values emphasise the strongest positions.
        norm: `mean` or `sum` over positions.

    Returns:
        One value per sample, `[samples]`.

    Raises:
        InputError: Unsupported shapes, integer dtypes, a power out of range, or an unknown norm.

    Example:
        >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
        >>> attention_transfer(left, right), attention_transfer(left, right, norm="sum")
        (tensor([1.]), tensor([2.]))

    Source: Zagoruyko and Komodakis 2017; scale of Tian, Krishnan and Isola 2020.
    """
    _check_power(power, where="attention_transfer.power")
    check_choice(norm, get_args(MapNorm), where="attention_transfer.norm")
    student, teacher = map_pair(student, teacher, where="attention_transfer")
    student, teacher = (_attention(side, power) for side in aligned(student, teacher))
    squares = (student - teacher).square()
    return mean_per_sample(squares) if norm == "mean" else squares.sum(1)


def factor_transfer(
    student: Features,
    teacher: Features,
    *,
    form: FactorForm = "map",
    distance: Distance = "l1",
    power: Power = 2.0,
) -> PerSample:
    r"""Compute the factor transfer loss (FT) between normalised factors.

    Factors are the outputs of a translator of the student's features and a paraphraser of the
    teacher's (`limbeck.connectors.factors` trains both). Two forms:

    $$
    \begin{aligned}
    \text{map:}\quad & a = A/\|A\|_2,\; A_m = \frac1C \sum_c |F_{cm}|^p &
    \text{l1} &= \frac1M \|a^S - a^T\|_1 & \text{l2} &= \frac1M \|a^S - a^T\|_2^2 \\
    \text{factor:}\quad & a = F/\|F\|_2 &
    \text{l1} &= \|a^S - a^T\|_1 & \text{l2} &= \|a^S - a^T\|_2
    \end{aligned}
    $$

    Scale: `map` is that of the CIFAR-100 benchmark, whose weight (500, for l1 and p = 2) applies
    unchanged; `factor` is the paper's formula. Factors of zeros count as zero.

    Args:
        student: Factors: maps `[samples, channels, height, width]` or sequences
            `[samples, tokens, d]`; for `factor` any `[samples, ...]`.
        teacher: The same. For `map` a larger map is average-pooled to the smaller; for `factor`
            shapes must be equal.
        form: `map` or `factor`.
        distance: `l1` or `l2`.
        power: p of `map`, from 1 to 8.

    Returns:
        One value per sample, `[samples]`.

    Raises:
        InputError: Unsupported shapes, integer dtypes, a power out of range, an unknown form or
            distance.

    Example:
        >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, -5.0]]]])
        >>> factor_transfer(left, right), factor_transfer(left, right, form="factor")
        (tensor([1.]), tensor([2.]))

    Source: Kim, Park and Kwak 2018 (FT); `map` from Tian, Krishnan and Isola 2020.
    """
    where = "factor_transfer"
    check_choice(form, get_args(FactorForm), where=f"{where}.form")
    check_choice(distance, get_args(Distance), where=f"{where}.distance")
    _check_power(power, where=f"{where}.power")
    if form == "map":
        student, teacher = map_pair(student, teacher, where=where)
        student, teacher = (_attention(side, power) for side in aligned(student, teacher))
        difference = student - teacher
        return mean_per_sample(difference.abs() if distance == "l1" else difference.square())
    pair = feature_pair(student, teacher, where=where)
    student, teacher = (unit_length(side.flatten(1)) for side in pair)
    return torch.linalg.vector_norm(student - teacher, ord=1 if distance == "l1" else 2, dim=1)


def neuron_selectivity(
    student: Features, teacher: Features, *, kernel: Kernel = "polynomial"
) -> PerSample:
    r"""Compute the neuron selectivity transfer loss (NST): squared MMD between channel maps.

    Each channel's normalised map over the M positions is one sample of a distribution; the two
    distributions are compared by their squared maximum mean discrepancy (MMD):

    $$
    \frac{1}{C_S^2} \sum_{ij} k(s_i, s_j) + \frac{1}{C_T^2} \sum_{ij} k(t_i, t_j)
    - \frac{2}{C_S C_T} \sum_{ij} k(s_i, t_j), \qquad k(x, y) = (x^\top y)^2 \text{ or } x^\top y
    $$

    Scale: means over pairs of channels; the weight published with the CIFAR-100 benchmark (50, for
    the squared kernel) applies unchanged. The paper's third kernel, a Gaussian, is not implemented.
    A channel of zeros counts as zero.

    Args:
        student: Maps `[samples, channels, height, width]` or sequences `[samples, tokens, d]`.
        teacher: The same, with any number of channels. A larger map is average-pooled to the
            smaller.
        kernel: `polynomial` (the square) or `linear`.

    Returns:
        One value per sample, `[samples]`.

    Raises:
        InputError: Unsupported shapes, integer dtypes, or an unknown kernel.

    Example:
        >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
        >>> neuron_selectivity(left, right)
        tensor([2.])

    Source: Huang and Wang 2017 (NST); scale of Tian, Krishnan and Isola 2020.
    """
    check_choice(kernel, get_args(Kernel), where="neuron_selectivity.kernel")
    student, teacher = map_pair(student, teacher, where="neuron_selectivity")
    s, t = (unit_length(side.flatten(2)) for side in aligned(student, teacher))
    if kernel == "linear":
        return (s.mean(1) - t.mean(1)).square().sum(1)
    if s.shape[2] <= max(s.shape[1], t.shape[1]):  # fewer positions than channels
        # The squared kernel is an inner product of the means of x xᵀ over channels.
        moments = [products(side.mT, side.mT) / side.shape[1] for side in (s, t)]
        return (moments[0] - moments[1]).square().sum((1, 2))
    return _mean_kernel(s, s) + _mean_kernel(t, t) - 2 * _mean_kernel(s, t)


def _mean_kernel(x: Tensor, y: Tensor) -> Tensor:
    return mean_per_sample(products(x, y).square())


def _attention(features: Tensor, power: float) -> Tensor:
    """Return the normalised attention map, `[samples, positions]`."""
    # Not the mean: normalisation removes the scale.
    strength = features.square().sum(1) if power == 2 else features.abs().pow(power).sum(1)
    strength = strength.flatten(1)
    # Otherwise the square of a high power would overflow float32.
    largest = strength.detach().amax(1, keepdim=True)
    return unit_length(strength / F.threshold(largest, 0, 1))


def _check_power(power: object, *, where: str) -> None:
    if not (is_number(power) and 1 <= power <= 8):
        raise InputError(Problem(where, power, "a number from 1 to 8", "Try 2.0."))


_MASKED_SCORE = -1e2  # at most this, TinyBERT's code treats a score as that of a padded key


def attention_kl(
    student: Float[Tensor, "elements student_heads *queries keys"],
    teacher: Float[Tensor, "elements teacher_heads *queries keys"],
    *,
    heads: Literal["match", "mean"] = "match",
    mask: Mask | None = None,
) -> PerElement:
    r"""Compute the KL divergence of attention distributions (MiniLM).

    With a row of probabilities over the keys for each head h and query i:

    $$\frac1{H\,n} \sum_{h,i} KL(A^t_{hi} \| A^s_{hi})$$

    Keys of probability 0 on both sides (padding) contribute 0. If only the student's is 0, the
    teacher is conditioned on the keys that the student can attend to, as in `divergence`.

    Args:
        student: Attention probabilities, `[samples, heads, queries, keys]` or
            `[elements, heads, keys]`; the last dimension sums to 1.
        teacher: The same for the teacher.
        heads: `match` compares head by head and requires equal numbers; `mean` compares the means
            over all heads, for any numbers.
        mask: True for tokens that are not padding, `[samples, queries]`: the mean is over these
            queries. `[elements, heads, keys]` has no queries to mask.

    Returns:
        One value per sample in nats, `[samples]`, never negative. Its published weight is 1.

    Raises:
        InputError: A wrong shape or dtype, an unknown `heads`, or a mask of another shape.

    Example:
        >>> student, teacher = torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[1.0, 0.0]]])
        >>> attention_kl(student, teacher)
        tensor([0.6931])

    Source: Wang et al. 2020 (MiniLM).
    """
    allowed = "[samples, heads, queries, keys] or [elements, heads, keys]"
    _check_attention(student, 3, where="attention_kl.student", allowed=allowed)
    _check_attention(teacher, 3, where="attention_kl.teacher", allowed=allowed)
    check_choice(heads, ("match", "mean"), where="attention_kl.heads")
    student, teacher = precise_pair(student, teacher)
    if heads == "mean":
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    check_same_shape(student, teacher, where="attention_kl.teacher")
    student, teacher = (
        mask_padding(x.movedim(1, -2), mask, rest=2, where="attention_kl.mask")
        for x in (student, teacher)
    )
    return mean_over_tokens(_kl_of_probabilities(student, teacher).mean(-1), mask)


def _check_attention(attention: Tensor, axes: int, *, where: str, allowed: str) -> None:
    fewest, last = range(axes, 99), slice(-1, None)
    check_axes(attention, fewest, where=where, allowed=f"a tensor {allowed}", nonempty=last)
    if attention.shape[1] == 0:
        shape = tuple(attention.shape)
        raise InputError(Problem(where, shape, "at least one head, the second dimension"))


def _kl_of_probabilities(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute KL(teacher ‖ student) of each row, conditioned on the student's support."""
    limits = torch.finfo(student.dtype)
    smallest = limits.tiny / limits.eps  # below this, 1/q, the gradient or a rescaling may overflow
    excluded = student < smallest
    p = teacher.masked_fill(excluded | (teacher < smallest), 0)
    total, kept = teacher.sum(-1, keepdim=True), p.sum(-1, keepdim=True)
    p = p * (total / kept.masked_fill(kept == 0, 1))
    log_p, log_q = p.masked_fill(p == 0, 1).log(), student.masked_fill(excluded, 1).log()
    return not_negative((p * (log_p - log_q)).sum(-1))


def attention_mse(
    student: Float[Tensor, "samples heads queries keys"],
    teacher: Float[Tensor, "samples heads queries keys"],
    *,
    mask: Mask | None = None,
) -> PerSample:
    r"""Compute the mean squared error of attention scores before softmax (TinyBERT).

    With scores a for each of H heads, n queries and m keys:

    $$\frac1{H\,n\,m} \sum_{h,i,j} (a^t_{hij} - a^s_{hij})^2$$

    A score of at most −100, including -inf, is treated as that of a padded key and counts as 0 on
    both sides, as in the published code. Without a mask the mean is over all keys and queries,
    including padding, as there.

    Args:
        student: Scores, `[samples, heads, queries, keys]`.
        teacher: Scores, the same shape.
        mask: True for tokens that are not padding, `[samples, tokens]`, for self-attention: the
            mean is over these queries and keys.

    Returns:
        One value per sample, `[samples]`. Its published weight is 1.

    Raises:
        InputError: A wrong shape or dtype, or a mask of another shape.

    Example:
        >>> student = torch.zeros(1, 1, 2, 2)
        >>> attention_mse(student, torch.tensor([[[[1.0, -1e4], [3.0, -1e4]]]]))
        tensor([2.5000])

    Source: Jiao et al. 2020 (TinyBERT).
    """
    allowed = "[samples, heads, queries, keys]"
    _check_attention(student, 4, where="attention_mse.student", allowed=allowed)
    check_floating(teacher, where="attention_mse.teacher")
    check_same_shape(student, teacher, where="attention_mse.teacher")
    if mask is not None:
        for axis in (2, 3):
            check_mask(mask, (student.shape[0], student.shape[axis]), where="attention_mse.mask")
        mask = (mask.unsqueeze(1) & mask.unsqueeze(2)).flatten(1)
    student, teacher = (_token_pairs(x, mask) for x in precise_pair(student, teacher))
    return mean_over_tokens((student - teacher).square().mean(-1), mask)


def _token_pairs(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return `[samples, pairs of tokens, heads]`, with 0 for masked scores."""
    scores = scores.masked_fill(scores <= _MASKED_SCORE, 0)
    pairs = scores.movedim(1, -1).flatten(1, 2)
    return mask_padding(pairs, mask, rest=1, where="attention_mse.mask")


def minilm_relation(
    student: Float[Tensor, "samples tokens student_features"],
    teacher: Float[Tensor, "samples tokens teacher_features"],
    *,
    heads: PositiveInt = 12,
    mask: Mask | None = None,
) -> PerSample:
    r"""Compute the self-attention relation loss of queries, keys or values (MiniLMv2).

    The features of A (all queries, all keys, or all values of a layer) are divided into H relation
    heads of d features. For each head and token i:

    $$R = \mathrm{softmax}\left(\frac{A_h A_h^\top}{\sqrt d}\right), \quad
    \frac1{H\,n} \sum_{h,i} KL(R^t_{hi} \| R^s_{hi})$$

    The widths of student and teacher may differ, and their numbers of attention heads, too.

    Args:
        student: Queries, keys or values, `[samples, tokens, features]`, all heads concatenated.
        teacher: The same for the teacher, with its own number of features.
        heads: H, a divisor of the features of both; 48 in the paper for a teacher of BERT-base's
            size and 64 for a large one.
        mask: True for tokens that are not padding, `[samples, tokens]`: padding has no relations; a
            sample of padding only is 0.

    Returns:
        One value per sample in nats, `[samples]`, never negative. The paper sums queries, keys and
        values with a weight of 1 each.

    Raises:
        InputError: A wrong shape or dtype, heads that do not divide the features, or a mask of
            another shape.

    Example:
        >>> student, teacher = torch.zeros(1, 2, 4), torch.eye(2).reshape(1, 2, 2)
        >>> minilm_relation(student, teacher, heads=2)
        tensor([0.0555])

    Source: Wang et al. 2021 (MiniLMv2).
    """
    for side, states in (("student", student), ("teacher", teacher)):
        where, allowed = f"minilm_relation.{side}", "a tensor [samples, tokens, features]"
        check_axes(states, (3,), where=where, allowed=allowed, nonempty=slice(0))
        features = states.shape[2]
        if type(heads) is not int or not 0 < heads <= features or features % heads:
            allowed = f"a whole number that divides the {side}'s {features} features"
            raise InputError(Problem("minilm_relation.heads", heads, allowed))
    if student.shape[:2] != teacher.shape[:2]:
        given = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        raise InputError(Problem("minilm_relation.teacher", given, "the same samples and tokens"))
    if student.shape[1] == 0:
        return precise(student).sum((1, 2))
    student, teacher = (_relations(x, heads, mask) for x in precise_pair(student, teacher))
    rows = forward_kl(student.flatten(0, 2), teacher.flatten(0, 2), 1.0)
    return mean_over_tokens(rows.unflatten(0, student.shape[:3]).mean(1), mask)


def _relations(states: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Return the products of tokens, `[samples, heads, tokens, tokens]`; padded keys are -inf."""
    states = mask_padding(states, mask, rest=1, where="minilm_relation.mask")
    split = states.unflatten(-1, (heads, -1)).transpose(1, 2)
    with without_autocast(split):
        scores = split @ split.transpose(-1, -2) / math.sqrt(split.shape[-1])
    return scores if mask is None else scores.masked_fill(~mask[:, None, None, :], -math.inf)
