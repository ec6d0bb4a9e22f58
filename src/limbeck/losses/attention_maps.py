"""Losses over attention maps: attention transfer, factor transfer, neuron selectivity.

Attention here is the activation strength of a feature map at its positions; for transformers see
`attention`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses.maps import (
    aligned,
    check_features,
    check_maps,
    mean_of_each,
    products,
)
from limbeck.numbers import is_number
from limbeck.precision import precise_pair
from limbeck.vectors import unit_length

MapNorm: TypeAlias = Literal["mean", "sum"]
FactorForm: TypeAlias = Literal["map", "factor"]
Distance: TypeAlias = Literal["l1", "l2"]
Kernel: TypeAlias = Literal["polynomial", "linear"]


def attention_transfer(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    power: float = 2.0,
    norm: MapNorm = "mean",
) -> Float[Tensor, " samples"]:
    r"""Compute the attention transfer loss (AT) between spatial attention maps.

    With a map's attention A at each of its M positions, normalised to a:

    $$
    A_m = \frac1C \sum_c |F_{cm}|^p \qquad a = A / \|A\|_2 \qquad
    \text{mean} = \frac1M \|a^S - a^T\|_2^2 \qquad \text{sum} = \|a^S - a^T\|_2^2
    $$

    Scale: `mean` is that of the CIFAR-100 benchmark and of the authors' own code, whose weight
    (1000) applies as it is; `sum` is the squared distance as often written, M times as much. Mean
    or sum over channels is equivalent after normalisation. A map of zeros counts as zero.

    Args:
        student: Maps `[samples, channels, height, width]` or sequences `[samples, tokens, d]`.
        teacher: The same, with any number of channels. A larger map is average-pooled to the
            smaller. No gradient reaches it.
        power: p, from 1 to 8. Higher values emphasise the strongest positions.
        norm: `mean` or `sum` over positions.

    Returns:
        One value per sample, `[samples]`; float32 for half-precision features.

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
    check_maps(student, teacher, where="attention_transfer")
    ours, theirs = (_attention(side, power) for side in aligned(student, teacher))
    squares = (ours - theirs).square()
    return mean_of_each(squares) if norm == "mean" else squares.sum(1)


def factor_transfer(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    form: FactorForm = "map",
    distance: Distance = "l1",
    power: float = 2.0,
) -> Float[Tensor, " samples"]:
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

    Scale: `map` is that of the CIFAR-100 benchmark, whose weight (500, for l1 and p = 2) applies as
    it is; `factor` is the paper's formula over the whole vector of factors. Factors of zeros count
    as zero.

    Args:
        student: Factors: maps `[samples, channels, height, width]` or sequences
            `[samples, tokens, d]`; for `factor` any `[samples, ...]`.
        teacher: The same. For `map` a larger map is average-pooled to the smaller; for `factor`
            shapes must be equal. No gradient reaches it.
        form: `map` or `factor`.
        distance: `l1` or `l2`.
        power: p of `map`, from 1 to 8.

    Returns:
        One value per sample, `[samples]`; float32 for half-precision factors.

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
        check_maps(student, teacher, where=where)
        ours, theirs = (_attention(side, power) for side in aligned(student, teacher))
        difference = ours - theirs
        return mean_of_each(difference.abs() if distance == "l1" else difference.square())
    check_features(student, teacher, where=where)
    ours, theirs = (unit_length(side.flatten(1)) for side in precise_pair(student, teacher))
    return torch.linalg.vector_norm(ours - theirs, ord=1 if distance == "l1" else 2, dim=1)


def neuron_selectivity(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    kernel: Kernel = "polynomial",
) -> Float[Tensor, " samples"]:
    r"""Compute the neuron selectivity transfer loss (NST): squared MMD between channel maps.

    Each channel's normalised map over the M positions is one sample of a distribution; the two
    distributions are compared by their squared maximum mean discrepancy (MMD):

    $$
    \frac{1}{C_S^2} \sum_{ij} k(s_i, s_j) + \frac{1}{C_T^2} \sum_{ij} k(t_i, t_j)
    - \frac{2}{C_S C_T} \sum_{ij} k(s_i, t_j), \qquad k(x, y) = (x^\top y)^2 \text{ or } x^\top y
    $$

    Scale: all three terms, means over pairs of channels; the weight published with the CIFAR-100
    benchmark (50, for the squared kernel) applies as it is. The paper's third kernel, a Gaussian
    with a bandwidth from the batch, is not implemented; the paper prefers the squared one. A
    channel of zeros counts as zero.

    Args:
        student: Maps `[samples, channels, height, width]` or sequences `[samples, tokens, d]`.
        teacher: The same, with any number of channels. A larger map is average-pooled to the
            smaller. No gradient reaches it.
        kernel: `polynomial` (the square) or `linear`.

    Returns:
        One value per sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Unsupported shapes, integer dtypes, or an unknown kernel.

    Example:
        >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
        >>> neuron_selectivity(left, right)
        tensor([2.])

    Source: Huang and Wang 2017 (NST); scale of Tian, Krishnan and Isola 2020.
    """
    check_choice(kernel, get_args(Kernel), where="neuron_selectivity.kernel")
    check_maps(student, teacher, where="neuron_selectivity")
    ours, theirs = (unit_length(side.flatten(2)) for side in aligned(student, teacher))
    if kernel == "linear":
        return (ours.mean(1) - theirs.mean(1)).square().sum(1)
    if ours.shape[2] <= max(ours.shape[1], theirs.shape[1]):  # fewer positions than channels
        return (_second_moment(ours) - _second_moment(theirs)).square().sum((1, 2))
    return _agreement(ours, ours) + _agreement(theirs, theirs) - 2 * _agreement(ours, theirs)


def _second_moment(maps: Tensor) -> Tensor:
    """Compute the mean of x xᵀ over channels: the squared kernel is an inner product of these."""
    return products(maps.mT, maps.mT) / maps.shape[1]


def _agreement(ours: Tensor, theirs: Tensor) -> Tensor:
    return mean_of_each(products(ours, theirs).square())


def _attention(features: Tensor, power: float) -> Tensor:
    """Return the normalised attention map, `[samples, places]`."""
    # Not the mean: normalisation removes the scale.
    strength = features.square().sum(1) if power == 2 else features.abs().pow(power).sum(1)
    places = strength.flatten(1)
    # Otherwise the square of a high power would overflow float32.
    largest = places.detach().amax(1, keepdim=True)
    return unit_length(places / F.threshold(largest, 0, 1))


def _check_power(power: object, *, where: str) -> None:
    if not (is_number(power) and 1 <= power <= 8):
        raise InputError(Problem(where, power, "a number from 1 to 8", "Try 2.0."))
