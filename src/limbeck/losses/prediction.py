"""Losses with other softening or scaling of logits: TTM, WTTM, logit standardisation.

As in `divergence`, the teacher is conditioned on the student's support if student logits are -inf.
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

_RULED_OUT = -1e9  # replaces -inf if -inf would turn a gradient into NaN
_SOFTENING = 1e-7  # the published code's epsilon of the standard deviation
_ROUNDING = 32  # the tolerance of constant rows, in units in the last place


def ttm(
    student: Float[Tensor, "units classes"],
    teacher: Float[Tensor, "units classes"],
    *,
    temperature: float,
) -> Float[Tensor, " units"]:
    r"""Compute transformed teacher matching (TTM): KL divergence to the softened teacher only.

    With $p = \mathrm{softmax}(t)$ and γ = 1/T:

    $$KL\left(\frac{p^\gamma}{\sum_i p_i^\gamma} \,\Big\|\, \mathrm{softmax}(z)\right)$$

    Only the teacher is softened: $p^\gamma$, normalised to sum 1, is softmax(t/T). Compared with
    `soft_target_kl` this adds a bonus for the student's (Rényi) entropy. There is no T²: the
    student's gradient is q − p at every temperature, without the 1/T that T² compensates. The
    minimum, 0, is at z = t/T and not at z = t.

    Args:
        student: Logits z, `[units, classes]`.
        teacher: Logits t, `[units, classes]`. No gradient reaches them.
        temperature: T, above 0.

    Returns:
        One value per element in nats, `[units]`, never negative; float32 for half-precision logits.
        Published for VGG13 and VGG8 on CIFAR-100 with T = 10 and a weight of 45, with a
        cross-entropy of weight 1.

    Raises:
        InputError: A wrong shape, integer logits, or a temperature <= 0.

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
    r"""Compute weighted transformed teacher matching (WTTM): TTM times a weight per element.

    With $p = \mathrm{softmax}(t)$ and γ = 1/T:

    $$\Big(\sum_i p_i^\gamma\Big)\,
    KL\left(\frac{p^\gamma}{\sum_i p_i^\gamma} \,\Big\|\, \mathrm{softmax}(z)\right)$$

    For T above 1 the weight is from 1 (a certain teacher) to $C^{1-\gamma}$ (a uniform teacher). As
    in `ttm` there is no T², and the minimum is at z = t/T.

    Args:
        student: Logits z, `[units, classes]`.
        teacher: Logits t, `[units, classes]`. No gradient reaches them.
        temperature: T, above 0.

    Returns:
        One value per element in nats, `[units]`, never negative; float32 for half-precision logits.
        Published in combination with `crd` on CIFAR-100 with T = 5 and a weight of 4.

    Raises:
        InputError: A wrong shape, integer logits, or a temperature <= 0.

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
    r"""Compute the KL divergence of standardised (z-scored) logits, times T².

    $$T^2\,KL\left(\mathrm{softmax}\frac{\zeta(t)}T \,\Big\|\, \mathrm{softmax}\frac{\zeta(z)}T
    \right), \; \zeta(z) = \frac{z - \bar z}{\sigma(z) + 10^{-7}}, \;
    \sigma(z)^2 = \frac{\sum_i (z_i - \bar z)^2}{C - \text{correction}}$$

    The student matches the relations of the teacher's logits, not their scale: the value is zero at
    any z = a·t + b with a > 0. Constant logits have scores of 0, without a gradient. Logits of -inf
    are excluded from mean and deviation.

    Args:
        student: Logits z, `[units, classes]`.
        teacher: Logits t, `[units, classes]`. No gradient reaches them.
        temperature: T, above 0.
        correction: The correction of the variance: 1 as in the published code, for which the
            published weight applies, 0 as in the paper.

    Returns:
        One value per element in nats, `[units]`, never negative; float32 for half-precision logits.
        Published on CIFAR-100 with T = 2 and a weight of 9, with a cross-entropy of weight 1.

    Raises:
        InputError: A wrong shape, integer logits, a temperature <= 0, or a correction that is
            neither 0 nor 1.

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
    """Subtract each row's mean; a row that is constant up to rounding is 0, without a gradient.

    Impossible classes are excluded, and are 0. Without the special case of constant rows, the
    division by their norm would amplify rounding errors.
    """
    logits = logits.masked_fill(~possible, 0)
    count = possible.sum(-1, keepdim=True).clamp_min(1)
    rest = (logits - logits.sum(-1, keepdim=True) / count).masked_fill(~possible, 0)
    sizes = [torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True) for x in (rest, logits)]
    return rest.masked_fill(sizes[0] <= _ROUNDING * torch.finfo(rest.dtype).eps * sizes[1], 0)


def _conditioned(teacher: Tensor, student: Tensor) -> Tensor:
    """Condition the teacher on the student's support."""
    return teacher.masked_fill(student == -math.inf, -math.inf)
