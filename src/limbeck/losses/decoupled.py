"""The loss that takes predictions apart: the right class, and all the others; one value a unit."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.losses.inputs import (
    check_label_range,
    check_labels,
    check_temperature,
    check_weight,
    logit_pair,
)

_RULED_OUT = -1e9  # stands for -inf: no probability in any float type, yet 0 * it is 0 and not NaN


def dkd(
    student: Float[Tensor, "units classes"],
    teacher: Float[Tensor, "units classes"],
    *,
    labels: Integer[Tensor, " units"],
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Float[Tensor, " units"]:
    r"""Compare the right class with the rest, and the other classes among themselves.

    With $b = (p_y, 1 - p_y)$ and $\hat p$ the distribution over all classes but y, both at
    temperature T:

    $$T^2 \left[\alpha\,KL(b^t \| b^s) + \beta\,KL(\hat p^t \| \hat p^s)\right]$$

    `soft_target_kl` is the same with α = 1 and β = 1 − p_y of the teacher: it listens to the other
    classes the less, the surer the teacher is. The right class is taken out exactly, whatever the
    logits' size. Where nothing is left (one class, or all others ruled out), the second part is 0.
    Classes that the student rules out with -inf are taken from the teacher, as in `divergence`.

    Args:
        student: Logits, `[units, classes]`.
        teacher: Logits, `[units, classes]`. No gradient reaches them.
        labels: The right classes y, `[units]`.
        alpha: The weight of the right class against the rest, at least 0.
        beta: The weight of the other classes among themselves, at least 0. The paper tunes it to
            the pair of networks; 8 is its value for ResNet32x4 and ResNet8x4.
        temperature: T, above 0.

    Returns:
        One value a unit in nats, `[units]`, never negative; float32 for half-precision logits. It
        is published with a weight of 1 beside a cross-entropy of weight 1, ramped up over the first
        20 epochs on CIFAR-100.

    Raises:
        InputError: A wrong shape, integer logits, labels out of range (seen on a CPU), a negative
            weight, or a temperature not above 0.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 0.0]])
        >>> dkd(student, teacher, labels=torch.tensor([0]), temperature=1.0)
        tensor([1.1166])

    Source: Zhao et al. 2022.
    """
    z, t = logit_pair(student, teacher, where="dkd")
    check_labels(labels, student, where="dkd.labels")
    check_weight(alpha, where="dkd.alpha")
    check_weight(beta, where="dkd.beta")
    check_temperature(temperature, where="dkd.temperature")
    right = labels.long().unsqueeze(-1)
    try:
        value: Tensor = _Decoupled.apply(z, t, right, (alpha, beta), temperature)
    except RuntimeError:  # a CPU looks at the labels anyway; looking before would be a second time
        check_label_range(labels, student, where="dkd.labels")
        raise
    return value


class _Decoupled(torch.autograd.Function):
    """Both parts, with their gradient in closed form: half the time of operation by operation.

    The backward pass is itself differentiable.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        right: Tensor,
        weights: tuple[float, float],
        temperature: float,
    ) -> Tensor:
        teacher = teacher.masked_fill(student == -math.inf, -math.inf)
        their_margin, theirs, nothing = _decoupled(teacher, right, temperature)
        our_margin, ours, _ = _decoupled(student, right, temperature)
        p, chance = theirs.exp().masked_fill_(nothing, 0), their_margin.sigmoid()
        ctx.save_for_backward(student, right, chance, p, nothing)
        ctx.settings = weights, temperature
        target = _binary_kl(their_margin, our_margin).squeeze(-1)
        others = theirs.sub_(ours).mul_(p).sum(-1).clamp_min_(0)  # rounding may push it below
        return (weights[0] * target + weights[1] * others) * temperature**2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        student, right, chance, p, nothing = ctx.saved_tensors
        (alpha, beta), temperature = ctx.settings
        margin, logs, _ = _decoupled(student, right, temperature)
        q, off = logs.exp(), alpha * (margin.sigmoid() - chance)
        slope = (beta * (q - p)).masked_fill(nothing, 0) - off * q
        slope = slope.scatter(-1, right, off)
        return slope * (gradient * temperature).unsqueeze(-1), None, None, None, None


def _decoupled(logits: Tensor, right: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Give the log-odds of the right class, the others' log-probabilities, and if there are none.

    The right class is among the others as one that is ruled out.
    """
    logits = (logits / temperature).clamp_min(_RULED_OUT)
    others = logits.scatter(-1, right, _RULED_OUT)
    together = others.logsumexp(-1, keepdim=True)
    return logits.gather(-1, right) - together, others - together, together < _RULED_OUT / 2


def _binary_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL between two classes, from their log-odds."""
    right = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    wrong = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (right + wrong).clamp_min(0)
