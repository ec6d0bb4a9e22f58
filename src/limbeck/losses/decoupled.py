"""Decoupled knowledge distillation (DKD): target class and non-target classes."""

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

_RULED_OUT = -1e9  # replaces -inf: zero probability in any float type, and 0 * it is 0 and not NaN


def dkd(
    student: Float[Tensor, "units classes"],
    teacher: Float[Tensor, "units classes"],
    *,
    labels: Integer[Tensor, " units"],
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Float[Tensor, " units"]:
    r"""Compute decoupled knowledge distillation (DKD): α · TCKD + β · NCKD.

    With $b = (p_y, 1 - p_y)$ and $\hat p$ the distribution over all classes but y, both at
    temperature T:

    $$T^2 \left[\alpha\,KL(b^t \| b^s) + \beta\,KL(\hat p^t \| \hat p^s)\right]$$

    `soft_target_kl` is the same with α = 1 and β = 1 − p_y of the teacher, which weights the
    non-target classes less for a confident teacher. The target class is excluded exactly, for
    logits of any size. If no class remains (one class, or -inf for all others), NCKD is 0. If
    student logits are -inf, the teacher is conditioned on the other classes, as in `divergence`.

    Args:
        student: Logits, `[units, classes]`.
        teacher: Logits, `[units, classes]`. No gradient reaches them.
        labels: The labels y, `[units]`.
        alpha: The weight of target class distillation (TCKD), at least 0.
        beta: The weight of non-target class distillation (NCKD), at least 0. The paper tunes it per
            pair of networks; 8 is its value for ResNet32x4 and ResNet8x4.
        temperature: T, above 0.

    Returns:
        One value per element in nats, `[units]`, never negative; float32 for half-precision logits.
        The published weight is 1, with a cross-entropy of weight 1, ramped up over the first 20
        epochs on CIFAR-100.

    Raises:
        InputError: A wrong shape, integer logits, labels out of range (checked on a CPU), a
            negative weight, or a temperature <= 0.

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
    """Return the target's log-odds, the others' log-probabilities, and the rows without others.

    The target class is included in the others with probability 0.
    """
    logits = (logits / temperature).clamp_min(_RULED_OUT)
    others = logits.scatter(-1, right, _RULED_OUT)
    together = others.logsumexp(-1, keepdim=True)
    return logits.gather(-1, right) - together, others - together, together < _RULED_OUT / 2


def _binary_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Compute the KL divergence between two classes, from their log-odds."""
    right = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    wrong = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return not_negative(right + wrong)
