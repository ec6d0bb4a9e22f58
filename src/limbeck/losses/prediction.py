"""Losses over predictions that soften or scale the two sides unlike Hinton's: one value a unit.

All of them keep the rule of `divergence` for classes that the student rules out with logits of
-inf: the teacher is conditioned on what the student can say.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.losses.divergence import forward_kl
from limbeck.losses.inputs import check_temperature, logit_pair
from limbeck.vectors import norm

_RULED_OUT = -1e9  # stands for -inf where -inf would turn a gradient into NaN
_SOFTENING = 1e-7  # what the published code adds to a standard deviation
_ROUNDING = 32  # so many units in the last place may a row vary and still count as constant


def ttm(
    student: Float[Tensor, "units classes"],
    teacher: Float[Tensor, "units classes"],
    *,
    temperature: float,
) -> Float[Tensor, " units"]:
    r"""Let the student, as it is, match the teacher's softened distribution.

    With $p = \mathrm{softmax}(t)$ and γ = 1/T:

    $$KL\left(\frac{p^\gamma}{\sum_i p_i^\gamma} \,\Big\|\, \mathrm{softmax}(z)\right)$$

    Only the teacher is softened: $p^\gamma$, brought back to sum 1, is softmax(t/T). Compared with
    `soft_target_kl` that adds a bonus for the student's (Rényi) entropy. There is no T²: the
    student's gradient is q − p at every temperature, without the 1/T that T² makes up for. The
    minimum, 0, is at z = t/T and not at z = t.

    Args:
        student: Logits z, `[units, classes]`.
        teacher: Logits t, `[units, classes]`. No gradient reaches them.
        temperature: T, above 0.

    Returns:
        One value a unit in nats, `[units]`, never negative; float32 for half-precision logits. For
        VGG13 and VGG8 on CIFAR-100 it is published with T = 10 and a weight of 45, beside a
        cross-entropy of weight 1.

    Raises:
        InputError: A wrong shape, integer logits, or a temperature not above 0.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[8.0, 0.0]])
        >>> ttm(torch.tensor([[2.0, 0.0]]), teacher, temperature=4.0)
        tensor([0.])

    Source: Zheng and Yang 2024.
    """
    z, t = logit_pair(student, teacher, where="ttm")
    check_temperature(temperature, where="ttm.temperature")
    return forward_kl(z, t / temperature, 1.0)


def wttm(
    student: Float[Tensor, "units classes"],
    teacher: Float[Tensor, "units classes"],
    *,
    temperature: float,
) -> Float[Tensor, " units"]:
    r"""Do as `ttm` does, and listen most where the teacher is least sure.

    With $p = \mathrm{softmax}(t)$ and γ = 1/T:

    $$\Big(\sum_i p_i^\gamma\Big)\,
    KL\left(\frac{p^\gamma}{\sum_i p_i^\gamma} \,\Big\|\, \mathrm{softmax}(z)\right)$$

    For T above 1 the factor runs from 1 (the teacher is sure) to $C^{1-\gamma}$ (it is not sure at
    all). As in `ttm` there is no T², and the minimum is at z = t/T.

    Args:
        student: Logits z, `[units, classes]`.
        teacher: Logits t, `[units, classes]`. No gradient reaches them.
        temperature: T, above 0.

    Returns:
        One value a unit in nats, `[units]`, never negative; float32 for half-precision logits.
        Beside `crd` on CIFAR-100 it is published with T = 5 and a weight of 4.

    Raises:
        InputError: A wrong shape, integer logits, or a temperature not above 0.

    Example:
        >>> import torch
        >>> wttm(torch.tensor([[4.0, 0.0]]), torch.zeros(1, 2), temperature=2.0)
        tensor([1.8738])

    Source: Zheng and Yang 2024.
    """
    z, t = logit_pair(student, teacher, where="wttm")
    check_temperature(temperature, where="wttm.temperature")
    t = _conditioned(t, z)
    logs = F.log_softmax(t.clamp_min(_RULED_OUT), dim=-1)
    powers = (logs / temperature).exp().masked_fill(t == -math.inf, 0)
    return powers.sum(-1) * forward_kl(z, t / temperature, 1.0)


def standardized_kl(
    student: Float[Tensor, "units classes"],
    teacher: Float[Tensor, "units classes"],
    *,
    temperature: float = 2.0,
    correction: int = 1,
) -> Float[Tensor, " units"]:
    r"""Compare the softened distributions of logits that are brought to mean 0 and deviation 1.

    $$T^2\,KL\left(\mathrm{softmax}\frac{\zeta(t)}T \,\Big\|\, \mathrm{softmax}\frac{\zeta(z)}T
    \right), \; \zeta(z) = \frac{z - \bar z}{\sigma(z) + 10^{-7}}, \;
    \sigma(z)^2 = \frac{\sum_i (z_i - \bar z)^2}{C - \text{correction}}$$

    The student need not reach the teacher's spread of logits, only their relations; so it is zero
    at any z = a·t + b with a > 0. Logits that are all the same are scores of 0, without a gradient.
    Classes ruled out with -inf count neither in the mean nor in the deviation.

    Args:
        student: Logits z, `[units, classes]`.
        teacher: Logits t, `[units, classes]`. No gradient reaches them.
        temperature: T, above 0.
        correction: What is taken from the number of classes C in the variance: 1 as in the
            published code, with which the published weight was measured, 0 as in the paper.

    Returns:
        One value a unit in nats, `[units]`, never negative; float32 for half-precision logits. On
        CIFAR-100 it is published with T = 2 and a weight of 9, beside a cross-entropy of weight 1.

    Raises:
        InputError: A wrong shape, integer logits, a temperature not above 0, or a correction that
            is neither 0 nor 1.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 1.0, 0.0]])
        >>> standardized_kl(3 * teacher + 5, teacher)
        tensor([0.])

    Source: Sun et al. 2024.
    """
    z, t = logit_pair(student, teacher, where="standardized_kl")
    check_temperature(temperature, where="standardized_kl.temperature")
    if correction not in (0, 1):
        raise InputError(Problem("standardized_kl.correction", correction, "0 or 1"))
    ours, theirs = (_standardized(side, correction) for side in (z, _conditioned(t, z)))
    return forward_kl(ours, theirs, temperature)


def _standardized(logits: Tensor, correction: int) -> Tensor:
    possible = logits != -math.inf
    rest = _centred(logits, possible)
    degrees = (possible.sum(-1, keepdim=True) - correction).clamp_min(1).to(rest.dtype)
    deviation = norm(rest)[0] / degrees.sqrt()
    return (rest / (deviation + _SOFTENING)).masked_fill(~possible, -math.inf)


def _centred(logits: Tensor, possible: Tensor) -> Tensor:
    """Take each row's mean off; a row that is constant but for rounding is 0, without a gradient.

    What is not possible counts nowhere, and is 0. Without the care for constant rows, the division
    by their size would blow rounding errors up.
    """
    logits = logits.masked_fill(~possible, 0)
    count = possible.sum(-1, keepdim=True).clamp_min(1)
    rest = (logits - logits.sum(-1, keepdim=True) / count).masked_fill(~possible, 0)
    sizes = [torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True) for x in (rest, logits)]
    return rest.masked_fill(sizes[0] <= _ROUNDING * torch.finfo(rest.dtype).eps * sizes[1], 0)


def _conditioned(teacher: Tensor, student: Tensor) -> Tensor:
    """Take from the teacher what the student cannot say."""
    return teacher.masked_fill(student == -math.inf, -math.inf)
