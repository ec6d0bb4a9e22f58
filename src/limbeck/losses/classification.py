"""Response losses: cross-entropy, soft-target KL divergence, logit MSE; one value per element."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.core.numbers import is_number
from limbeck.core.tensors import precise
from limbeck.errors import InputError, Problem
from limbeck.losses._inputs import (
    check_labels,
    check_logits,
    check_temperature,
    logit_pair,
    looked_up,
)
from limbeck.losses.divergences import forward_kl

_RULED_OUT = -1e9  # replaces -inf: a label of a ruled-out class has a large, but finite loss
_NO_LABEL = -(2**63)  # torch ignores labels of -100 by default; here they are invalid


def cross_entropy(
    student: Float[Tensor, "units classes"], labels: Integer[Tensor, " units"]
) -> Float[Tensor, " units"]:
    r"""Compute the cross-entropy with hard labels.

    $$-\log \mathrm{softmax}(z)_y$$

    Args:
        student: Logits z, `[units, classes]`.
        labels: The labels y, `[units]`. There is no ignore index: use a weight of 0.

    Returns:
        One value per element in nats, `[units]`; float32 for half-precision logits.

    Raises:
        InputError: A wrong shape, integer logits, or labels out of range (checked on a CPU).

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor([1.3863, 1.3863])
    """
    check_logits(student, where="cross_entropy.student")
    check_labels(labels, student, where="cross_entropy.labels")
    logits, right = precise(student), labels.long()
    with looked_up(labels, student, where="cross_entropy.labels"):
        value = F.cross_entropy(logits, right, reduction="none", ignore_index=_NO_LABEL)
    return value.clamp_max(-_RULED_OUT)


def label_smoothing(
    student: Float[Tensor, "units classes"],
    labels: Integer[Tensor, " units"],
    *,
    smoothing: float,
) -> Float[Tensor, " units"]:
    r"""Compute the cross-entropy with label smoothing.

    $$-(1-\varepsilon) \log q_y - \frac{\varepsilon}{C} \sum_i \log q_i, \; q = \text{softmax}(z)$$

    Classes with student logits of -inf have no share of ε.

    Args:
        student: Logits z, `[units, classes]`.
        labels: The labels y, `[units]`.
        smoothing: ε, in [0, 1); 0 is plain cross-entropy.

    Returns:
        One value per element in nats, `[units]`; float32 for half-precision logits.

    Raises:
        InputError: As `cross_entropy`, or a smoothing outside of [0, 1).

    Example:
        >>> import torch
        >>> label_smoothing(torch.tensor([[4.0, 0.0]]), torch.tensor([0]), smoothing=0.1)
        tensor([0.2181])

    Source: Szegedy et al. 2016.
    """
    check_logits(student, where="label_smoothing.student")
    check_labels(labels, student, where="label_smoothing.labels")
    if not (is_number(smoothing) and 0 <= smoothing < 1):
        raise InputError(
            Problem("label_smoothing.smoothing", smoothing, "a number in [0, 1)", "Try 0.1.")
        )
    logits = precise(student)
    possible = logits != -float("inf")
    surprise = -F.log_softmax(logits.clamp_min(_RULED_OUT), dim=-1)
    with looked_up(labels, student, where="label_smoothing.labels"):
        hard = surprise.gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)
    spread = surprise.masked_fill(~possible, 0).sum(-1) / possible.sum(-1).clamp_min(1)
    return (1 - smoothing) * hard + smoothing * spread


def soft_target_kl(
    student: Float[Tensor, "units classes"],
    teacher: Float[Tensor, "units classes"],
    *,
    temperature: float,
) -> Float[Tensor, " units"]:
    r"""Compute the temperature-scaled KL divergence KL(teacher ‖ student), times T².

    $$T^2 \, KL\left(\mathrm{softmax}(t/T) \,\|\, \mathrm{softmax}(z/T)\right)$$

    Equal to `divergence(kind="forward_kl")`. T² is part of value and gradient: without it the
    gradient would fall with 1/T², and each temperature would need its own weight.

    Args:
        student: Logits z, `[units, classes]`.
        teacher: Logits t, `[units, classes]`. No gradient reaches them.
        temperature: T, above 0.

    Returns:
        One value per element in nats, `[units]`, never negative; float32 for half-precision logits.

    Raises:
        InputError: A wrong shape, integer logits, or a temperature <= 0.

    Example:
        >>> import torch
        >>> soft_target_kl(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), temperature=4.0)
        tensor([0.4848])

    Source: Hinton, Vinyals and Dean 2015.
    """
    z, t = logit_pair(student, teacher, where="soft_target_kl")
    check_temperature(temperature, where="soft_target_kl.temperature")
    return forward_kl(z, t, temperature)


def logit_mse(
    student: Float[Tensor, "units classes"], teacher: Float[Tensor, "units classes"]
) -> Float[Tensor, " units"]:
    r"""Compute the mean squared error of the logits.

    $$\frac1C \sum_i (z_i - t_i)^2$$

    Unlike a divergence it depends on the teacher's logit offset, too. Classes with a logit of -inf
    on either side are excluded from the mean.

    Args:
        student: Logits z, `[units, classes]`.
        teacher: Logits t, `[units, classes]`. No gradient reaches them.

    Returns:
        One value per element, `[units]`; float32 for half-precision logits.

    Raises:
        InputError: A wrong shape, or integer logits.

    Example:
        >>> import torch
        >>> logit_mse(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]))
        tensor([2.])

    Source: Bucilă, Caruana and Niculescu-Mizil 2006; Ba and Caruana 2014.
    """
    z, t = logit_pair(student, teacher, where="logit_mse")
    left_out = (z == -float("inf")) | (t == -float("inf"))
    squares = (z.masked_fill(left_out, 0) - t.masked_fill(left_out, 0)).square()
    return squares.sum(-1) / (~left_out).sum(-1).clamp_min(1)
