"""Losses over which neurons are active: the sign of a response before its ReLU.

Tap the layer before the ReLU (a batch normalisation, say), not the ReLU itself: afterwards the
signs are gone.
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

_RARE = 1e-3  # a channel negative less often than this has no negative mean worth the name


def activation_boundary(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    margin: float = 1.0,
    reading: Reading = "hinge",
) -> Float[Tensor, " samples"]:
    r"""Measure how far neurons are from being active where, and only where, the teacher's are.

    With y = 1 where the teacher's response t is above 0, else −1, and [x]₊ = max(x, 0):

    $$
    \text{hinge} = \sum_i [m - y_i s_i]_+^2 \qquad
    \text{margin} = \sum_i [-y_i s_i]_+^2 + \left([y_i s_i]_+ - |t_i|\right)^2
    $$

    `hinge` is the published loss: it asks for the side of the boundary and a fixed margin m, and
    so is not 0 at student = teacher where |t| < m. `margin` asks for the same side and a similar
    distance to the boundary; a neuron on the wrong side has distance 0 on the right one, so that
    none is held there. It is 0 at student = teacher only.

    Scale: the sum over features, as in the authors' code and in the CIFAR-100 benchmark. Outside
    of it both multiply by 3/1000, and by 1/2 for every layer further from the output; that product
    is the weight here (0.003 for the last layer, 0.0015 for the one before it).

    Args:
        student: Responses s before the ReLU, `[samples, ...]`, of the teacher's shape.
        teacher: Responses t before the ReLU, `[samples, ...]`. No gradient reaches them.
        margin: m of `hinge`, above 0; `margin` takes the teacher's own.
        reading: `hinge` or `margin`.

    Returns:
        One value a sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Shapes that differ, whole numbers, a margin not above 0, an unknown reading.

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
    side = ours * torch.where(theirs > 0, 1.0, -1.0)  # how far on the teacher's side
    if reading == "hinge":
        return (margin - side).relu().square().flatten(1).sum(1)
    distance = theirs.abs()
    there = (side - distance).square()
    across = side.square() + distance.square()
    # A neuron on the boundary is taken as being on the right side, or nothing would move it.
    return torch.where(side < 0, across, there).flatten(1).sum(1)


def overhaul(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    margin: Float[Tensor, "*channels"] | float,
) -> Float[Tensor, " samples"]:
    r"""Measure the squared difference to the teacher where its response means something.

    Responses are compared before the ReLU. Those that the teacher's ReLU would cut need not be
    met, only not be exceeded; and below the margin m they are all one:

    $$
    \sum_i \begin{cases} 0 & s_i \le \max(t_i, m) \text{ and } t_i \le 0 \\
    (s_i - \max(t_i, m))^2 & \text{otherwise} \end{cases}
    $$

    Scale: the sum over features, as published. Outside of it the authors multiply by 1/1000, and
    by 1/2 for every layer further from the output; that product is the weight here (0.001 for the
    last layer).

    Args:
        student: Responses s before the ReLU, `[samples, ...]`, of the teacher's shape.
        teacher: Responses t before the ReLU, `[samples, ...]`. No gradient reaches them.
        margin: m, at most 0: one number a channel, `[channels]`, whatever broadcasts to the
            features, or one number. `batch_norm_margin` has the published ones.

    Returns:
        One value a sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Shapes that differ, whole numbers, a margin that does not fit or is above 0
            (seen on a number, not on a tensor).

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

    What leaves the normalisation is taken as normal with mean b and deviation |w|; φ and Φ are the
    standard normal density and distribution:

    $$m = E[x \mid x < 0] = b - |w|\,\frac{\varphi(b/|w|)}{\Phi(-b/|w|)}$$

    Where x is negative less than once in a thousand times, m = −3|w|, as published.

    Args:
        weight: The layer's factors w.
        bias: The layer's offsets b.

    Returns:
        The margin for `overhaul`, `[channels]`, never above 0, in the type of the weight.

    Raises:
        InputError: Shapes that differ.

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
    ratio = (mean / deviation).nan_to_num(0, math.inf, -math.inf)  # 0 / 0: a channel that is 0
    often = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    expected = mean - deviation * density / often.clamp_min(_RARE)
    return torch.where(often > _RARE, expected, -3 * deviation).to(weight.dtype)
