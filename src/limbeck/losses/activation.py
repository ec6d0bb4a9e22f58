"""Losses over pre-activations: activation boundary (AB) and overhaul distillation (OFD).

Tap the layer before the ReLU (such as a batch normalisation), not the ReLU itself, whose output has
no signs.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses.maps import check_features, per_channel
from limbeck.numbers import is_number, is_positive
from limbeck.precision import precise_pair

Reading: TypeAlias = Literal["hinge", "margin"]

_RARE = 1e-3  # below this share of negative values, their mean is unreliable


def activation_boundary(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    margin: float = 1.0,
    reading: Reading = "hinge",
) -> Float[Tensor, " samples"]:
    r"""Compute the activation boundary loss (AB): a hinge loss on the teacher's activation signs.

    With y = 1 where the teacher's response t is above 0, else −1, and [x]₊ = max(x, 0):

    $$
    \text{hinge} = \sum_i [m - y_i s_i]_+^2 \qquad
    \text{margin} = \sum_i [-y_i s_i]_+^2 + \left([y_i s_i]_+ - |t_i|\right)^2
    $$

    `hinge` is the published loss, with a fixed margin m on the teacher's side of the boundary: it
    is not 0 at student = teacher if |t| < m. `margin` requires the same side and a similar distance
    to the boundary; a neuron on the wrong side has distance 0 on the right one. It is 0 only at
    student = teacher.

    Scale: the sum over features, as in the authors' code and in the CIFAR-100 benchmark. Both
    multiply it by 3/1000, and by 1/2 for every layer further from the output; that product is the
    weight here (0.003 for the last layer, 0.0015 for the one before it).

    Args:
        student: Responses s before the ReLU, `[samples, ...]`, of the teacher's shape.
        teacher: Responses t before the ReLU, `[samples, ...]`. No gradient reaches them.
        margin: m of `hinge`, above 0; `margin` uses the teacher's own.
        reading: `hinge` or `margin`.

    Returns:
        One value per sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Different shapes, integer dtypes, a margin <= 0, an unknown reading.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, -3.0]])
        >>> activation_boundary(student, teacher)
        tensor([2.5000])
        >>> activation_boundary(student, teacher, reading="margin")
        tensor([15.5000])

    Source: Heo et al. 2019 (AB); scale of Tian, Krishnan and Isola 2020.
    """
    where = "activation_boundary"
    check_choice(reading, get_args(Reading), where=f"{where}.reading")
    if not is_positive(margin):
        raise InputError(Problem(f"{where}.margin", margin, "a finite number above 0", "Try 1.0."))
    check_features(student, teacher, where=where)
    ours, theirs = precise_pair(student, teacher)
    side = ours * torch.where(theirs > 0, 1.0, -1.0)  # the signed distance on the teacher's side
    if reading == "hinge":
        return (margin - side).relu().square().flatten(1).sum(1)
    distance = theirs.abs()
    there = (side - distance).square()
    across = side.square() + distance.square()
    # A neuron on the boundary counts as on the right side, or it would have no gradient.
    return torch.where(side < 0, across, there).flatten(1).sum(1)


def overhaul(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    margin: Float[Tensor, "*channels"] | float,
) -> Float[Tensor, " samples"]:
    r"""Compute the overhaul distillation loss (OFD): the partial L2 distance above a margin.

    Responses are compared before the ReLU. Where the teacher's ReLU is inactive, only larger
    student responses count; below the margin m all are equal:

    $$
    \sum_i \begin{cases} 0 & s_i \le \max(t_i, m) \text{ and } t_i \le 0 \\
    (s_i - \max(t_i, m))^2 & \text{otherwise} \end{cases}
    $$

    Scale: the sum over features, as published. The authors multiply it by 1/1000, and by 1/2 for
    every layer further from the output; that product is the weight here (0.001 for the last layer).

    Args:
        student: Responses s before the ReLU, `[samples, ...]`, of the teacher's shape.
        teacher: Responses t before the ReLU, `[samples, ...]`. No gradient reaches them.
        margin: m, at most 0: one number per channel, `[channels]`, a tensor that broadcasts to the
            features, or one number. `batch_norm_margin` computes the published ones.

    Returns:
        One value per sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Different shapes, integer dtypes, a margin that does not fit or is above 0
            (checked for a number, not for a tensor).

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, -3.0, 1.0]]), torch.tensor([[2.0, -1.0, -5.0]])
        >>> overhaul(student, teacher, margin=-1.0)
        tensor([8.])

    Source: Heo et al. 2019b (A comprehensive overhaul of feature distillation).
    """
    if not isinstance(margin, Tensor) and not (is_number(margin) and margin <= 0):
        raise InputError(Problem("overhaul.margin", margin, "a finite number of at most 0"))
    check_features(student, teacher, where="overhaul")
    ours, theirs = precise_pair(student, teacher)
    if not isinstance(margin, Tensor):
        margin = theirs.new_tensor(margin)
    lowest = per_channel(margin.detach().to(theirs.dtype), theirs, where="overhaul.margin")
    target = torch.maximum(theirs, lowest)
    counts = (theirs > 0) | (ours > target)
    return (ours - target).square().masked_fill(~counts, 0).flatten(1).sum(1)


def batch_norm_margin(
    weight: Float[Tensor, " channels"], bias: Float[Tensor, " channels"]
) -> Float[Tensor, " channels"]:
    r"""Estimate each channel's mean negative response from the batch normalisation before a ReLU.

    The output of the normalisation is assumed normal with mean b and deviation  |w|; φ and Φ are
    the standard normal density and distribution:

    $$m = E[x \mid x < 0] = b - |w|\,\frac{\varphi(b/|w|)}{\Phi(-b/|w|)}$$

    If the probability of a negative x is below 0.001, m = −3|w|, as published.

    Args:
        weight: The layer's weight w.
        bias: The layer's bias b.

    Returns:
        The margin for `overhaul`, `[channels]`, never above 0, in the dtype of the weight.

    Raises:
        InputError: Different shapes.

    Example:
        >>> norm = torch.nn.BatchNorm2d(2)
        >>> batch_norm_margin(norm.weight, norm.bias)
        tensor([-0.7979, -0.7979])

    Source: Heo et al. 2019b.
    """
    if weight.ndim != 1 or weight.shape != bias.shape:
        given = f"weight {tuple(weight.shape)}, bias {tuple(bias.shape)}"
        raise InputError(Problem("batch_norm_margin", given, "two tensors [channels]"))
    deviation, mean = weight.detach().double().abs(), bias.detach().double()
    ratio = (mean / deviation).nan_to_num(0, math.inf, -math.inf)  # 0 / 0: a constant channel of 0
    often = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    expected = mean - deviation * density / often.clamp_min(_RARE)
    return torch.where(often > _RARE, expected, -3 * deviation).to(weight.dtype)
