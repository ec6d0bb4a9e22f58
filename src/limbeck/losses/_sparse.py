"""Divergence from top-k or sampled classes of a teacher.

Both need few of the student's logits, and one number for all others: a logsumexp. Tensors of the
size of the vocabulary are computed a block of rows at a time, and again in backward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from limbeck.core.tensors import precise
from limbeck.losses._blocks import RowFunction, Tensors, apply_to_rows, dense
from limbeck.losses._kinds import (
    MINIMUM_LOGIT,
    DivergenceConfig,
    closed_form,
    log_mixture,
    not_negative,
)
from limbeck.targets import DenseTargets, SampledTargets, TopKTargets

_SATURATED = 60.0  # a class with q above exp(60) times p is not sampled
_Rest: TypeAlias = Literal["all", "others", "none"]
"""The classes of the logsumexp: all, those that are not selected, or no logsumexp."""


def top_k(student: Tensor, targets: TopKTargets, config: DivergenceConfig) -> Tensor:
    """Compute the divergence over top-k classes, with or without the tail as one class."""
    classes = min(student.shape[1], targets.classes)
    selected = _select(student, targets.ids, classes, 1.0, _rest(targets))
    return dense(selected, DenseTargets(_teacher_logs(targets, classes)), config)


def sampled(student: Tensor, targets: SampledTargets, config: DivergenceConfig) -> Tensor:
    """Compute an unbiased estimate of the divergence from sampled classes."""
    classes = min(student.shape[1], targets.classes or student.shape[1])
    selected = _select(student, targets.ids, classes, config.temperature, "all")
    return _estimate(*_ratios(selected, targets), config)


def top_k_rows(
    student: Tensor, targets: TopKTargets, config: DivergenceConfig, *, grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute value and optionally gradient of a few rows, as `closed_form`."""
    classes = student.shape[1]
    selection = _Selection(targets.ids.long(), classes, 1.0, _rest(targets))
    selected = selection.value(student)
    teacher = _teacher_logs(targets, classes).to(selected.dtype)
    value, gradient = closed_form(selected, teacher, config, grad=grad)
    return value, None if gradient is None else selection.vjp(student, selected, gradient)


def sampled_rows(
    student: Tensor, targets: SampledTargets, config: DivergenceConfig, *, grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute value and optionally gradient of a few rows, as `closed_form`."""
    selection = _Selection(targets.ids.long(), student.shape[1], config.temperature, "all")
    selected = selection.value(student)
    ratio, weight = _ratios(selected, targets)
    value = _estimate(ratio, weight, config)
    if not grad:
        return value, None
    part = weight * _f_derivative(ratio, config) * config.temperature
    gradient = torch.cat([part, -part.sum(1, keepdim=True)], dim=1)
    return value, selection.vjp(student, selected, gradient)


def _estimate(ratio: Tensor, weight: Tensor, config: DivergenceConfig) -> Tensor:
    """Estimate T²·Σ p̂·f(q/p) from log q/p of the sampled classes and their weights p̂.

    Every kind is the expectation, over the teacher's distribution, of an f of the ratio r = q/p.
    For `jsd` and `tvd` f is never negative; for `reverse_kl` it is r·log r − r + 1, where the
    control variate r − 1 has mean 0 and removes most of the variance. `forward_kl` is −log r
    without r − 1: its gradient is T·(q − p̂), which is bounded, while that of r is not for a class
    with q much larger than p; and it is unbiased also for a teacher with logits of -inf, which are
    never sampled.
    """
    return (weight * _f(ratio, config)).sum(-1) * config.temperature**2


def _ratios(selected: Tensor, targets: SampledTargets) -> tuple[Tensor, Tensor]:
    """Return log q/p of each sampled class, and its weight p̂ in the mean."""
    log_q = selected[:, :-1] - selected[:, -1:].clamp_min(MINIMUM_LOGIT)
    log_p = precise(targets.log_probabilities.detach()).to(log_q.dtype)
    counts = targets.counts.to(log_q.dtype)
    weight = counts / counts.sum(-1, keepdim=True).clamp_min(1)
    if targets.log_proposal is not None:
        proposal = precise(targets.log_proposal.detach()).to(log_q.dtype)
        weight = weight * (log_p - proposal).masked_fill(counts == 0, 0).exp()
    ratio = log_q - log_p
    # Classes of logits -inf of the student are excluded, as are padding classes.
    excluded = (ratio.abs() == math.inf) | (counts == 0)
    return ratio.masked_fill(excluded, 0), weight.masked_fill(excluded, 0)


def _f(ratio: Tensor, config: DivergenceConfig) -> Tensor:
    """Compute f of q/p, given the ratio's logarithm."""
    if config.kind == "forward_kl":
        return -ratio
    clamped = ratio.clamp_max(_SATURATED)
    if config.kind == "reverse_kl":
        return not_negative(clamped * clamped.exp() - clamped.expm1())
    if config.kind == "tvd":
        return clamped.expm1().abs() / 2
    beta = config.beta
    log_p_ratio, log_q_ratio = -log_mixture(clamped, 1 - beta), -log_mixture(-clamped, beta)
    scale = beta * (1 - beta) if config.normalized else 1.0
    return not_negative((beta * log_p_ratio + (1 - beta) * clamped.exp() * log_q_ratio) / scale)


def _f_derivative(ratio: Tensor, config: DivergenceConfig) -> Tensor:
    """Compute the derivative of `_f` with respect to the ratio's logarithm."""
    if config.kind == "forward_kl":
        return torch.full_like(ratio, -1.0)
    clamped = ratio.clamp_max(_SATURATED)
    derivative = clamped.exp().masked_fill(ratio > _SATURATED, 0)
    if config.kind == "reverse_kl":
        return derivative * clamped
    if config.kind == "tvd":
        return derivative * clamped.sign() / 2
    beta = config.beta
    scale = beta if config.normalized else 1 / (1 - beta)
    return -derivative * log_mixture(-clamped, beta) / scale


def _rest(targets: TopKTargets) -> _Rest:
    tail = targets.tail == "bucket" and targets.ids.shape[1] < targets.classes
    return "others" if tail else "none"


def _teacher_logs(targets: TopKTargets, classes: int) -> Tensor:
    """Return the teacher's log-probabilities, with -inf for classes that the student lacks."""
    logs = precise(targets.log_probabilities.detach())
    common = logs.masked_fill(targets.ids >= classes, -math.inf)
    if _rest(targets) == "none":
        return common
    if targets.log_tail is not None:
        tail = targets.log_tail.detach().to(logs.dtype)
    else:  # a tail below rounding is not zero: the other classes exist
        missing = -logs.logsumexp(-1).clamp_max(0).expm1()
        tail = missing.clamp_min(torch.finfo(logs.dtype).eps).log()
    return torch.cat([common, tail.unsqueeze(1)], dim=1)


def _select(student: Tensor, ids: Tensor, classes: int, temperature: float, rest: _Rest) -> Tensor:
    def build(tensors: Tensors, rows: slice | None) -> RowFunction:
        [ids] = tensors
        return _Selection(ids if rows is None else ids[rows], classes, temperature, rest)

    return apply_to_rows(student, classes, build, ids.long())


@dataclass(frozen=True)
class _Selection(RowFunction):
    """The logits of some classes, and in one more column the logsumexp over the rest.

    The value is `[rows, k]`, or `[rows, k + 1]` with the logsumexp. Ids beyond the classes have
    logits of -inf. All logits are divided by the temperature.
    """

    ids: Tensor
    classes: int
    temperature: float
    rest: _Rest

    def value(self, logits: Tensor) -> Tensor:
        missing = self._missing()
        selected = logits.gather(1, self.ids.masked_fill(missing, 0)) / self.temperature
        selected = selected.masked_fill(missing, -math.inf)
        if self.rest == "none":
            return selected
        summed = self._scaled(logits)
        if self.rest == "others":
            summed = summed.masked_fill(self._is_selected(), -math.inf)
        # For an empty rest the sum is 0; the derivative of its logarithm would not be finite.
        empty = (summed == -math.inf).all(-1, keepdim=True)
        total = summed.masked_fill(empty, 0).logsumexp(-1, keepdim=True)
        return torch.cat([selected, total.masked_fill(empty, -math.inf)], dim=1)

    def vjp(self, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        missing = self._missing()
        direct = gradient[:, : self.ids.shape[1]].masked_fill(missing, 0)
        if self.rest == "none":
            whole = torch.zeros_like(logits)
        else:
            whole = self._shares(logits, value) * gradient[:, -1:]
        return self._scaled(whole.scatter_add(1, self.ids.masked_fill(missing, 0), direct))

    def jvp(self, logits: Tensor, value: Tensor, tangent: Tensor) -> Tensor:
        missing = self._missing()
        direct = tangent.gather(1, self.ids.masked_fill(missing, 0)).masked_fill(missing, 0)
        if self.rest != "none":
            total = (self._shares(logits, value) * tangent).sum(1, keepdim=True)
            direct = torch.cat([direct, total], dim=1)
        return direct / self.temperature

    def _missing(self) -> Tensor:
        return self.ids >= self.classes

    def _scaled(self, logits: Tensor) -> Tensor:
        return logits if self.temperature == 1 else logits / self.temperature

    def _shares(self, logits: Tensor, value: Tensor) -> Tensor:
        """Return the share of each class in the sum of the last column."""
        total = value[:, -1:]
        shares = (self._scaled(logits) - total.masked_fill(total == -math.inf, 0)).exp()
        return shares.masked_fill(self._is_selected(), 0) if self.rest == "others" else shares

    def _is_selected(self) -> Tensor:
        """Return the mask `[rows, classes]` of the ids; ids beyond the classes are ignored."""
        shape = (len(self.ids), self.classes + 1)
        selected = torch.zeros(shape, dtype=torch.bool, device=self.ids.device)
        return selected.scatter(1, self.ids.clamp_max(self.classes), True)[:, : self.classes]
