"""Kinds of divergence: settings, and closed-form value and gradient of rows.

Two rules keep every kind finite when logits are -inf, which excludes a class. If the definition is
finite (the teacher excludes a class in `forward_kl`), it applies. If it would be infinite (the
student excludes a class that the teacher does not), the teacher is conditioned on the student's
support, so that a vocabulary padded with -inf has the value of the common classes; `reverse_kl` is
symmetric to this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, cast, get_args

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from limbeck.core.numbers import is_number
from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses._inputs import check_temperature

Kind: TypeAlias = Literal["forward_kl", "reverse_kl", "jsd", "tvd"]
Mixture: TypeAlias = Annotated[float, Field(gt=0, lt=1)]
MINIMUM_LOGIT = -1e9  # replaces -inf: zero probability in any float type, and 0 * it is not NaN
_SATURATED = 60.0  # above this difference of log-probabilities a term weighs less than exp(-60)


@dataclass(frozen=True)
class DivergenceConfig:
    """The settings of a divergence, checked by `of`."""

    kind: Kind
    temperature: float
    beta: float = 0.5
    normalized: bool = False

    @classmethod
    def of(
        cls, where: str, kind: object, temperature: object, beta: object, normalized: object
    ) -> DivergenceConfig:
        """Check the settings of a divergence."""
        check_temperature(temperature, where=f"{where}.temperature")
        check_choice(kind, get_args(Kind), where=f"{where}.kind")
        if kind != "jsd" and (beta is not None or normalized):
            name, given = ("normalized", normalized) if beta is None else ("beta", beta)
            allowed = 'only with kind="jsd"'
            raise InputError(Problem(f"{where}.{name}", given, allowed, "Leave it out."))
        if beta is not None and not (is_number(beta) and 0 < beta < 1):
            fix = 'At the ends use "forward_kl" or "reverse_kl".'
            raise InputError(Problem(f"{where}.beta", beta, "a number above 0 and below 1", fix))
        share = 0.5 if beta is None else beta
        return cls(cast("Kind", kind), float(cast("float", temperature)), share, bool(normalized))


def not_negative(value: Tensor) -> Tensor:
    """Clamp negative rounding errors to zero, with the gradient of the identity.

    Example:
        >>> import torch
        >>> not_negative(torch.tensor([-1e-9, 2.0]))
        tensor([0., 2.])
    """
    return value - value.detach().clamp_max(0)


def conditioned(logits: Tensor, support: Tensor) -> Tensor:
    """Condition a distribution on the support of another: exclude its classes of -inf."""
    return logits.masked_fill(support == -math.inf, -math.inf)


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Compute log-probabilities at a temperature, with a finite floor for classes of -inf."""
    finite = logits.clamp_min(MINIMUM_LOGIT)
    return F.log_softmax(finite if temperature == 1 else finite / temperature, dim=-1)


def log_mixture(difference: Tensor, share: float) -> Tensor:
    """Compute log(1 − share + share·exp(difference)), exact for a share close to 0 or 1.

    The difference of two logarithms would cancel there. Terms that would overflow weigh less than
    exp(−60).
    """
    inside = share * difference.clamp_max(_SATURATED).expm1()
    # The floor: a share rounds to 1 in float32 near the limits.
    return inside.clamp_min(-1 + 1e-7).log1p()


def closed_form(
    student: Tensor, teacher: Tensor, config: DivergenceConfig, *, grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute value, and optionally gradient divided by T, of rows: `[rows]`, `[rows, classes]`.

    Callers multiply each row by a factor anyway, which includes T. The gradient of every kind is
    q·(f − Σqf) with its own f. No tensor saved by autograd is overwritten, so that the result is
    differentiable.

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
        >>> closed_form(*logits, DivergenceConfig("forward_kl", 1.0), grad=True)
        (tensor([0.3278]), tensor([[-0.3808,  0.3808]]))
    """
    excluded = None
    if config.kind == "forward_kl":
        teacher = conditioned(teacher, student)
    elif config.kind == "reverse_kl":
        excluded = teacher == -math.inf
        student = student.masked_fill(excluded, -math.inf)
    log_p, log_q = (log_softmax(x, config.temperature) for x in (teacher, student))
    value, gradient = _ROWS[config.kind](log_p, log_q, config, grad)
    if gradient is not None and excluded is not None:
        gradient = gradient.masked_fill(excluded, 0)
    return not_negative(value * config.temperature**2), gradient


_Row: TypeAlias = tuple[Tensor, Tensor | None]


def _forward_kl(log_p: Tensor, log_q: Tensor, config: DivergenceConfig, grad: bool) -> _Row:
    p = log_p.exp()
    value = (p * (log_p - log_q)).sum(-1)
    return value, log_q.exp() - p if grad else None


def _reverse_kl(log_p: Tensor, log_q: Tensor, config: DivergenceConfig, grad: bool) -> _Row:
    q, ratio = log_q.exp(), log_q - log_p
    value = (q * ratio).sum(-1)
    return value, q * (ratio - value.unsqueeze(-1)) if grad else None


def _jensen_shannon(log_p: Tensor, log_q: Tensor, config: DivergenceConfig, grad: bool) -> _Row:
    beta, difference = config.beta, log_p - log_q
    log_q_ratio = -log_mixture(difference, beta)  # log(q/m)
    log_p_ratio = -log_mixture(-difference, 1 - beta)  # log(p/m)
    q_weight, p_weight = (1 / beta, 1 / (1 - beta)) if config.normalized else (1 - beta, beta)
    part = log_q.exp() * log_q_ratio
    total = part.sum(-1)
    value = q_weight * total + p_weight * (log_p.exp() * log_p_ratio).sum(-1)
    return value, q_weight * (part - log_q.exp() * total.unsqueeze(-1)) if grad else None


def _total_variation(log_p: Tensor, log_q: Tensor, config: DivergenceConfig, grad: bool) -> _Row:
    q = log_q.exp()
    difference = q - log_p.exp()
    value = difference.abs().sum(-1) / 2
    if not grad:
        return value, None
    part = q * difference.sign()
    return value, (part - q * part.sum(-1, keepdim=True)) / 2


_ROWS: dict[Kind, Callable[[Tensor, Tensor, DivergenceConfig, bool], _Row]] = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jsd": _jensen_shannon,
    "tvd": _total_variation,
}
