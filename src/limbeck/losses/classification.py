"""Response losses: cross-entropy, KL divergences, logit MSE; one value per element."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor

from limbeck.core.numbers import is_number
from limbeck.core.tensors import precise
from limbeck.errors import InputError, Problem
from limbeck.losses._inputs import (
    check_labels,
    check_logits,
    check_soft_labels,
    check_temperature,
    checked_lookup,
    is_soft,
    logit_pair,
)
from limbeck.losses._kinds import MINIMUM_LOGIT, not_negative
from limbeck.losses._types import Logits, PerElement, SoftLabels
from limbeck.losses.divergences import forward_kl

_NO_LABEL = -(2**63)  # torch ignores labels of -100 by default; here they are invalid


def cross_entropy(student: Logits, labels: SoftLabels) -> PerElement:
    r"""Compute the cross-entropy with hard labels, or with probabilities.

    $$-\log \mathrm{softmax}(z)_y, \quad -\sum_i y_i \log \mathrm{softmax}(z)_i$$

    Args:
        student: Logits z, `[elements, classes]`.
        labels: The labels y, `[elements]`; or probabilities `[elements, classes]`, as mixup and
            CutMix make them. There is no ignore index: use a weight of 0.

    Returns:
        One value per element in nats, `[elements]`.

    Raises:
        InputError: A wrong shape or dtype, or labels out of range (checked on a CPU).

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor([1.3863, 1.3863])

    Source: Zhang et al. 2018, for mixed labels.
    """
    where = "cross_entropy.labels"
    check_logits(student, where="cross_entropy.student")
    if is_soft(labels):
        check_soft_labels(labels, student, where=where)
        return _soft_cross_entropy(precise(student), labels)
    check_labels(labels, student, where=where)
    logits, targets = precise(student), labels.long()
    with checked_lookup(labels, student, where=where):
        value = F.cross_entropy(logits, targets, reduction="none", ignore_index=_NO_LABEL)
    return value.clamp_max(-MINIMUM_LOGIT)  # finite for a label of an excluded class


def label_smoothing(
    student: Logits, labels: SoftLabels, *, smoothing: Annotated[float, Field(ge=0, lt=1)]
) -> PerElement:
    r"""Compute the cross-entropy with label smoothing.

    $$-(1-\varepsilon) \log q_y - \frac{\varepsilon}{C} \sum_i \log q_i, \; q = \text{softmax}(z)$$

    Classes with student logits of -inf have no share of ε.

    Args:
        student: Logits z, `[elements, classes]`.
        labels: The labels y, `[elements]`; or probabilities `[elements, classes]`.
        smoothing: ε, in [0, 1); 0 is plain cross-entropy.

    Returns:
        One value per element in nats, `[elements]`.

    Raises:
        InputError: As `cross_entropy`, or a smoothing outside of [0, 1).

    Example:
        >>> import torch
        >>> label_smoothing(torch.tensor([[4.0, 0.0]]), torch.tensor([0]), smoothing=0.1)
        tensor([0.2181])

    Source: Szegedy et al. 2016.
    """
    where = "label_smoothing.labels"
    check_logits(student, where="label_smoothing.student")
    soft = is_soft(labels)
    if soft:
        check_soft_labels(labels, student, where=where)
    else:
        check_labels(labels, student, where=where)
    if not (is_number(smoothing) and 0 <= smoothing < 1):
        allowed = "a number in [0, 1)"
        raise InputError(Problem("label_smoothing.smoothing", smoothing, allowed, "Try 0.1."))
    logits = precise(student)
    finite = logits != -float("inf")
    nll = -F.log_softmax(logits.clamp_min(MINIMUM_LOGIT), dim=-1)
    if soft:
        own = (nll * labels.to(nll.dtype)).sum(-1)
    else:
        with checked_lookup(labels, student, where=where):
            own = nll.gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)
    uniform = nll.masked_fill(~finite, 0).sum(-1) / finite.sum(-1).clamp_min(1)
    return (1 - smoothing) * own + smoothing * uniform


def _soft_cross_entropy(logits: Logits, probabilities: Tensor) -> PerElement:
    """Compute the cross-entropy with probabilities; a class of logit -inf is finite, as a label."""
    nll = -F.log_softmax(logits.clamp_min(MINIMUM_LOGIT), dim=-1)
    return (nll * probabilities.to(nll.dtype)).sum(-1)


def soft_target_kl(student: Logits, teacher: Logits, *, temperature: PositiveFloat) -> PerElement:
    r"""Compute the temperature-scaled KL divergence KL(teacher ‖ student), times T².

    $$T^2 \, KL\left(\mathrm{softmax}(t/T) \,\|\, \mathrm{softmax}(z/T)\right)$$

    Equal to `divergence(kind="forward_kl")`. T² is part of value and gradient: without it the
    gradient would fall with 1/T², and each temperature would need its own weight.

    Args:
        student: Logits z, `[elements, classes]`.
        teacher: Logits t, `[elements, classes]`.
        temperature: T, above 0.

    Returns:
        One value per element in nats, `[elements]`, never negative.

    Raises:
        InputError: A wrong shape or dtype, or a temperature <= 0.

    Example:
        >>> import torch
        >>> soft_target_kl(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), temperature=4.0)
        tensor([0.4848])

    Source: Hinton, Vinyals and Dean 2015.
    """
    student, teacher = logit_pair(student, teacher, where="soft_target_kl")
    check_temperature(temperature, where="soft_target_kl.temperature")
    return forward_kl(student, teacher, temperature)


def binary_kl(student: Logits, teacher: Logits, *, temperature: PositiveFloat) -> PerElement:
    r"""Compute the temperature-scaled KL divergence of independent labels, times T², their mean.

    $$\frac{T^2}{C} \sum_i \mathrm{KL}\left(\mathrm{Bern}(\sigma(t_i/T)) \,\|\,
      \mathrm{Bern}(\sigma(z_i/T))\right)$$

    The distillation loss of multi-label classification, where every label has its own sigmoid. The
    factor T² is part of value and gradient.

    Args:
        student: Logits z, `[elements, labels]`.
        teacher: Logits t, `[elements, labels]`.
        temperature: T, above 0.

    Returns:
        One value per element in nats, `[elements]`, never negative.

    Raises:
        InputError: A wrong shape or dtype, or a temperature <= 0.

    Example:
        >>> import torch
        >>> binary_kl(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), temperature=1.0)
        tensor([0.1639])

    Source: Yang et al. 2023, "Multi-label knowledge distillation" (arXiv 2308.06453), the
    multi-label logits distillation; the temperature is Hinton's.
    """
    student, teacher = logit_pair(student, teacher, where="binary_kl")
    check_temperature(temperature, where="binary_kl.temperature")
    z, t = (one.clamp(MINIMUM_LOGIT, -MINIMUM_LOGIT) / temperature for one in (student, teacher))
    p = t.sigmoid()
    gap = p * (F.logsigmoid(t) - F.logsigmoid(z)) + (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-z))
    return not_negative(gap).mean(-1) * temperature**2


def logit_mse(student: Logits, teacher: Logits) -> PerElement:
    r"""Compute the mean squared error of the logits.

    $$\frac1C \sum_i (z_i - t_i)^2$$

    Unlike a divergence it depends on the teacher's logit offset, too. Classes with a logit of -inf
    on either side are excluded from the mean.

    Args:
        student: Logits z, `[elements, classes]`.
        teacher: Logits t, `[elements, classes]`.

    Returns:
        One value per element, `[elements]`.

    Raises:
        InputError: A wrong shape or dtype.

    Example:
        >>> import torch
        >>> logit_mse(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]))
        tensor([2.])

    Source: Bucilă, Caruana and Niculescu-Mizil 2006; Ba and Caruana 2014.
    """
    student, teacher = logit_pair(student, teacher, where="logit_mse")
    excluded = (student == -float("inf")) | (teacher == -float("inf"))
    squares = (student.masked_fill(excluded, 0) - teacher.masked_fill(excluded, 0)).square()
    return squares.sum(-1) / (~excluded).sum(-1).clamp_min(1)
