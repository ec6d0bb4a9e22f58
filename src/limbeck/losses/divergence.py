"""How far a student's distribution is from its teacher's, one value a unit.

Two rules keep every kind finite when logits are -inf, which rules a class out. Where the
definition is finite (the teacher rules out a class in `forward_kl`), the definition holds. Where
it would be infinite (the student rules out a class that the teacher does not), the teacher is
conditioned on what the student can say, so that a vocabulary padded with -inf gives what the
common part gives; `reverse_kl` is the mirror image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.losses.inputs import check_fraction, check_logits, check_temperature, precise
from limbeck.targets import Targets

Kind: TypeAlias = Literal["forward_kl", "reverse_kl", "jsd", "tvd"]

_RULED_OUT = -1e9  # stands for -inf: no probability in any float type, yet 0 * it is 0 and not NaN
_SATURATED = 60.0  # beyond this difference of log-probabilities a term weighs less than exp(-60)


def divergence(
    student: Float[Tensor, "units student_classes"],
    targets: Targets,
    *,
    kind: Kind = "forward_kl",
    temperature: float,
    beta: float | None = None,
    normalized: bool = False,
) -> Float[Tensor, " units"]:
    r"""Measure how far the student's distribution is from the teacher's.

    With p the teacher's and q the student's softmax at temperature T, and m = βp + (1−β)q:

    $$
    \begin{aligned}
    \text{forward\_kl} &= T^2 \sum p \log(p/q) &
    \text{reverse\_kl} &= T^2 \sum q \log(q/p) \\
    \text{jsd} &= T^2 \left[\beta\,KL(p\|m) + (1-\beta)\,KL(q\|m)\right] &
    \text{tvd} &= T^2\,\tfrac12 \sum |p - q|
    \end{aligned}
    $$

    T² keeps the gradient's size through a change of temperature for the first three; that of `tvd`
    falls with 1/T only, and so grows with T. If one vocabulary is padded wider than the other,
    only the classes that both have are compared.

    Args:
        student: Logits, `[units, student classes]`.
        targets: The teacher's answer to the same units. No gradient reaches it.
        kind: `forward_kl` (mean-seeking), `reverse_kl` (mode-seeking), `jsd` (between them) or
            `tvd` (bounded).
        temperature: T, above 0.
        beta: The weight of p in m, in (0, 1); 0.5 if not given. Only for `jsd`.
        normalized: Divide by β(1−β): continuous up to `forward_kl` as β → 0 and `reverse_kl` as β
            → 1. Only for `jsd`.

    Returns:
        One value a unit in nats, `[units]`, never negative; float32 for half-precision logits.

    Raises:
        InputError: A wrong shape, integer logits, a temperature not above 0, an unknown kind, or a
            wrong beta.

    Example:
        >>> import torch
        >>> from limbeck.targets import DenseTargets
        >>> targets = DenseTargets(torch.tensor([[2.0, 0.0]]))
        >>> divergence(torch.zeros(1, 2), targets, kind="reverse_kl", temperature=1.0)
        tensor([0.4338])
        >>> divergence(torch.zeros(1, 2), targets, kind="jsd", temperature=0.0)
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: divergence.temperature: got 0.0; allowed: a finite
        number above 0. Try 4.0.

    Source: Kim and Rush 2016; Agarwal et al. 2024 (GKD); Gu et al. 2024 (MiniLLM).
    """
    check_logits(student, where="divergence.student")
    check_logits(targets.logits, where="divergence.targets")
    check_temperature(temperature, where="divergence.temperature")
    _check_kind(kind, beta, normalized)
    student, teacher = _common(student, targets.logits)
    if kind == "jsd":
        return jensen_shannon(
            student, teacher, temperature, 0.5 if beta is None else beta, normalized
        )
    return _PLAIN[kind](student, teacher, temperature)


def forward_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T²·KL(teacher ‖ student) of checked logits of one shape; `soft_target_kl` is the same."""
    value: Tensor = _ForwardKL.apply(student, teacher, temperature)
    return value


class _ForwardKL(torch.autograd.Function):
    """The loss of most distillations, with its gradient in closed form: T·(q − p).

    Recorded operation by operation it takes three times as long, which a small student's step
    feels. The backward pass is itself differentiable.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        teacher = teacher.masked_fill(student == -math.inf, -math.inf)
        p, q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
        probabilities = p.exp()
        ctx.save_for_backward(student, probabilities)
        ctx.temperature = temperature
        value = (p.sub_(q).mul_(probabilities)).sum(-1).mul_(temperature**2)
        return value.clamp_min_(0)  # rounding may push it below

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        student, p = ctx.saved_tensors
        q = _log_softmax(student, ctx.temperature).exp()
        return (q - p) * (gradient * ctx.temperature).unsqueeze(-1), None, None


def _reverse_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    student = student.masked_fill(teacher == -math.inf, -math.inf)
    p, q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
    return _not_negative((q.exp() * (q - p)).sum(-1)) * temperature**2


def jensen_shannon(
    student: Tensor, teacher: Tensor, temperature: float, beta: float, normalized: bool
) -> Tensor:
    """T²·JSD of checked logits of one shape, exact also where β is close to 0 or 1.

    log(m/q) is formed as log1p(β·expm1(log p/q)): the difference of two logarithms would cancel
    there.
    """
    p, q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
    difference = p - q
    to_p = -p.exp() * _log1p_expm1(-difference, 1 - beta)  # p·log(p/m)
    to_q = -q.exp() * _log1p_expm1(difference, beta)  # q·log(q/m)
    weights = (1 / (1 - beta), 1 / beta) if normalized else (beta, 1 - beta)
    value = weights[0] * to_p + weights[1] * to_q
    return _not_negative(value.sum(-1)) * temperature**2


def _total_variation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p, q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
    return (p.exp() - q.exp()).abs().sum(-1) * (temperature**2 / 2)


_PLAIN: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": _reverse_kl,
    "tvd": _total_variation,
}


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return F.log_softmax(logits.clamp_min(_RULED_OUT) / temperature, dim=-1)


def _log1p_expm1(difference: Tensor, share: float) -> Tensor:
    """log(1 − share + share·exp(difference)); what would overflow weighs less than exp(−60)."""
    inside = share * difference.clamp_max(_SATURATED).expm1()
    return inside.clamp_min(
        -1 + 1e-7
    ).log1p()  # the clamp: share rounds to 1 in float32 near the ends


def _not_negative(value: Tensor) -> Tensor:
    """Lift what rounding pushed below zero; a plain clamp would cut the gradient there."""
    return value - value.detach().clamp_max(0)


def _common(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Cut both to the classes that both have; the teacher loses its gradient."""
    if student.shape[0] != teacher.shape[0]:
        raise InputError(
            Problem(
                "divergence.targets",
                f"{teacher.shape[0]} units",
                f"{student.shape[0]} units, as the student has",
            )
        )
    classes = min(student.shape[1], teacher.shape[1])
    return precise(student[:, :classes]), precise(teacher.detach()[:, :classes])


def _check_kind(kind: object, beta: object, normalized: object) -> None:
    kinds = get_args(Kind)
    if kind not in kinds:
        raise InputError(
            Problem("divergence.kind", kind, ", ".join(kinds), did_you_mean(kind, kinds))
        )
    if kind == "jsd":
        if beta is not None:
            check_fraction(
                beta, where="divergence.beta", fix='At the ends use "forward_kl" or "reverse_kl".'
            )
    elif beta is not None or normalized:
        name, given = ("normalized", normalized) if beta is None else ("beta", beta)
        raise InputError(
            Problem(f"divergence.{name}", given, 'only with kind="jsd"', "Leave it out.")
        )
