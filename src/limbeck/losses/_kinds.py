"""Kinds of divergence: settings, and closed-form value and gradient of a few rows.

Two rules keep every kind finite when logits are -inf, which rules a class out. If the definition is
finite (the teacher rules out a class in `forward_kl`), it applies. If it would be infinite (the
student rules out a class that the teacher does not), the teacher is conditioned on the student's
support, so that a vocabulary padded with -inf has the value of the common classes; `reverse_kl` is
symmetric to this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses._inputs import check_fraction, check_temperature, not_negative

Kind: TypeAlias = Literal["forward_kl", "reverse_kl", "jsd", "tvd"]
RULED_OUT = -1e9  # replaces -inf: zero probability in any float type, and 0 * it is 0 and not NaN
_SATURATED = 60.0  # above this difference of log-probabilities a term weighs less than exp(-60)


@dataclass(frozen=True)
class Measure:
    """The settings of a divergence, checked by `of`."""

    kind: Kind
    temperature: float
    beta: float = 0.5
    normalized: bool = False

    @classmethod
    def of(
        cls, where: str, kind: object, temperature: object, beta: object, normalized: object
    ) -> Measure:
        """Check the settings of a divergence.

        Raises:
            InputError: A temperature <= 0, an unknown kind, or an invalid beta.
        """
        check_temperature(temperature, where=f"{where}.temperature")
        check_choice(kind, get_args(Kind), where=f"{where}.kind")
        if kind == "jsd":
            if beta is not None:
                fix = 'At the ends use "forward_kl" or "reverse_kl".'
                check_fraction(beta, where=f"{where}.beta", fix=fix)
        elif beta is not None or normalized:
            name, given = ("normalized", normalized) if beta is None else ("beta", beta)
            raise InputError(
                Problem(f"{where}.{name}", given, 'only with kind="jsd"', "Leave it out.")
            )
        share = 0.5 if beta is None else float(beta)  # type: ignore[arg-type]
        return cls(kind, float(temperature), share, bool(normalized))  # type: ignore[arg-type]


def closed_form(
    student: Tensor, teacher: Tensor, measure: Measure, *, slope: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute value and optionally slope of a few rows: `[rows]` and `[rows, classes]`.

    The gradient is T times the slope: callers already multiply each row by a factor. The slope of
    every kind is q·(f − Σqf) with its own f. No tensor saved by autograd is overwritten, so that
    the result is differentiable.

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
        >>> closed_form(*logits, Measure("forward_kl", 1.0), slope=True)
        (tensor([0.3278]), tensor([[-0.3808,  0.3808]]))
    """
    value, part = _ROWS[measure.kind](student, teacher, measure, slope)
    # Rounding may push a value below 0.
    return not_negative(value * measure.temperature**2), part


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Compute log-probabilities at a temperature, with a finite floor for classes of -inf."""
    kept = logits.clamp_min(RULED_OUT)
    return F.log_softmax(kept if temperature == 1 else kept / temperature, dim=-1)


def log_mixture(difference: Tensor, share: float) -> Tensor:
    """Compute log(1 − share + share·exp(difference)), exact for a share close to 0 or 1.

    The difference of two logarithms would cancel there. Terms that would overflow weigh less than
    exp(−60).
    """
    inside = share * difference.clamp_max(_SATURATED).expm1()
    # The floor: a share rounds to 1 in float32 near the limits.
    return inside.clamp_min(-1 + 1e-7).log1p()


def _forward_kl(
    student: Tensor, teacher: Tensor, measure: Measure, slope: bool
) -> tuple[Tensor, Tensor | None]:
    teacher = teacher.masked_fill(student == -math.inf, -math.inf)
    log_p, log_q = (log_softmax(x, measure.temperature) for x in (teacher, student))
    p = log_p.exp()
    value = (p * (log_p - log_q)).sum(-1)
    return value, log_q.exp() - p if slope else None


def _reverse_kl(
    student: Tensor, teacher: Tensor, measure: Measure, slope: bool
) -> tuple[Tensor, Tensor | None]:
    unsaid = teacher == -math.inf
    student = student.masked_fill(unsaid, -math.inf)
    log_p, log_q = (log_softmax(x, measure.temperature) for x in (teacher, student))
    q, ratio = log_q.exp(), log_q - log_p
    value = (q * ratio).sum(-1)
    if not slope:
        return value, None
    return value, (q * (ratio - value.unsqueeze(-1))).masked_fill(unsaid, 0)


def _jensen_shannon(
    student: Tensor, teacher: Tensor, measure: Measure, slope: bool
) -> tuple[Tensor, Tensor | None]:
    beta = measure.beta
    log_p, log_q = (log_softmax(x, measure.temperature) for x in (teacher, student))
    difference = log_p - log_q
    to_p, to_q = -log_mixture(-difference, 1 - beta), -log_mixture(difference, beta)  # log(·/m)
    ours, theirs = (1 / beta, 1 / (1 - beta)) if measure.normalized else (1 - beta, beta)
    part = log_q.exp() * to_q
    total = part.sum(-1)
    value = ours * total + theirs * (log_p.exp() * to_p).sum(-1)
    return value, ours * (part - log_q.exp() * total.unsqueeze(-1)) if slope else None


def _total_variation(
    student: Tensor, teacher: Tensor, measure: Measure, slope: bool
) -> tuple[Tensor, Tensor | None]:
    p, q = (log_softmax(x, measure.temperature).exp() for x in (teacher, student))
    difference = q - p
    value = difference.abs().sum(-1) / 2
    if not slope:
        return value, None
    part = q * difference.sign()
    return value, (part - q * part.sum(-1, keepdim=True)) / 2


_ROWS: dict[str, Callable[[Tensor, Tensor, Measure, bool], tuple[Tensor, Tensor | None]]] = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jsd": _jensen_shannon,
    "tvd": _total_variation,
}
