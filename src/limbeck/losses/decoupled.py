"""The loss that takes predictions apart: the right class, and all the others; one value a unit."""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.losses.inputs import (
    check_labels,
    check_temperature,
    check_weight,
    logit_pair,
    looked_up,
    not_negative,
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
    t = t.masked_fill(z == -math.inf, -math.inf)
    with looked_up(labels, student, where="dkd.labels"):
        margin, others, _ = _decoupled(z, right, temperature)
    their_margin, theirs, nothing = _decoupled(t, right, temperature)
    p = theirs.exp().masked_fill(nothing, 0)
    target = _binary_kl(their_margin, margin).squeeze(-1)
    rest = not_negative((p * (theirs - others)).sum(-1))
    return (alpha * target + beta * rest) * temperature**2


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
    return not_negative(right + wrong)
