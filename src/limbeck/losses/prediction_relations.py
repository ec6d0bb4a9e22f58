"""Batch-level relations of predictions (DIST, multi-level logit distillation): one scalar."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.losses.divergence import forward_kl
from limbeck.losses.inputs import check_temperature, check_weight, logit_pair, not_negative
from limbeck.precision import without_autocast
from limbeck.vectors import norm

_RULED_OUT = -1e9  # replaces -inf: zero probability in any float type, and no NaN
_ROUNDING = 32  # the tolerance of constant rows, in units in the last place
_FLOOR = 1e-8  # the minimum divisor of a correlation; the published code adds as much


def dist(
    student: Float[Tensor, "units classes"],
    teacher: Float[Tensor, "units classes"],
    *,
    beta: float = 2.0,
    gamma: float = 2.0,
    temperature: float = 1.0,
    epsilon: float = 0.0,
) -> Float[Tensor, ""]:
    r"""Compute the DIST loss: Pearson correlation of predictions, inter-class and intra-class.

    With P and Q the softmax of teacher and student at temperature T, one row per element, and ρ
    Pearson's correlation:

    $$T^2 \Big[\beta \Big(1 - \frac1B \sum_u \rho(P_{u\cdot}, Q_{u\cdot})\Big) +
    \gamma \Big(1 - \frac1C \sum_c \rho(P_{\cdot c}, Q_{\cdot c})\Big)\Big]$$

    A row or a column that is constant on either side has no correlation: it counts as ρ = 0,
    without a gradient. So the second part is γ·T² for a batch of one element. If the product of the
    two norms is below 1e-8, as for a class of negligible probability in the whole batch, the
    divisor is 1e-8 instead.

    T² is that of the published code. Unlike for a divergence, it does not make the gradient's size
    independent of the temperature, since ρ is scale-invariant.

    Args:
        student: Logits, `[units, classes]`.
        teacher: Logits, `[units, classes]`. No gradient reaches them.
        beta: The weight of the rows (relations between classes), at least 0.
        gamma: The weight of the columns (relations within a class), at least 0.
        temperature: T, above 0; 1 on ImageNet and 4 on CIFAR-100 in the published scripts.
        epsilon: The number added to the divisor of ρ: 0 as in the paper, or 1e-8 as in the
            published code, with which the minimum is not exactly at student = teacher.

    Returns:
        A scalar between 0 and 2·T²(β + γ); float32 for half-precision logits; 0 without elements. β
        = γ = 2 are the published weights, with a cross-entropy of weight 1.

    Raises:
        InputError: A wrong shape, integer logits, a negative weight, or a temperature <= 0.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        >>> dist(teacher, teacher).abs() < 1e-6
        tensor(True)

    Source: Huang et al. 2022.
    """
    z, t = logit_pair(student, teacher, where="dist")
    check_weight(beta, where="dist.beta")
    check_weight(gamma, where="dist.gamma")
    check_temperature(temperature, where="dist.temperature")
    if not len(z):
        return z.sum()
    check_weight(epsilon, where="dist.epsilon")
    q, p = _softmax(z, temperature), _softmax(t, temperature)
    rows, columns = _correlation(q, p, epsilon), _correlation(q.T, p.T, epsilon)
    value = beta * (1 - rows.mean()) + gamma * (1 - columns.mean())
    return not_negative(value * temperature**2)


def _correlation(ours: Tensor, theirs: Tensor, epsilon: float) -> Tensor:
    """Return Pearson's correlation of each row; 0 if a row of either side is constant."""
    (x, x_size, x_flat), (y, y_size, y_flat) = _centred(ours), _centred(theirs)
    divisor = (x_size * y_size + epsilon).clamp_min(_FLOOR)
    return (x * y).sum(-1, keepdim=True).masked_fill(x_flat | y_flat, 0) / divisor


def _centred(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Subtract the mean of rows of probabilities; return their norms, and the constant rows."""
    mean = rows.mean(-1, keepdim=True)
    rest = rows - mean
    noise = _ROUNDING * torch.finfo(rows.dtype).eps * math.sqrt(rows.shape[-1])
    flat = torch.linalg.vector_norm(rest.detach(), dim=-1, keepdim=True) <= noise * mean.detach()
    # The norm of rounding errors has no useful derivative, and that of zeros none.
    rest = rest.masked_fill(flat, 0)
    return rest, norm(rest)[0], flat


def multi_level(
    student: Float[Tensor, "units classes"],
    teacher: Float[Tensor, "units classes"],
    *,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    instance: float = 1.0,
    batch: float = 1.0,
    classes: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Compute multi-level logit distillation (MLKD): instance, batch and class level.

    With P and Q the softmax of teacher and student at temperature T, a row for each of B elements:

    $$\sum_T \left[ \frac{T^2}{B} \sum_u KL(P_u \| Q_u)
    + \frac1B \left\| P P^\top - Q Q^\top \right\|^2_F
    + \frac1C \left\| P^\top P - Q^\top Q \right\|^2_F \right]$$

    The three parts are multiplied by `instance`, `batch` and `classes`. The sum over temperatures
    is that of the paper and of the published code. The published code's masks by confidence, for a
    weak and a strong view of each image, are omitted: it multiplies them by values that are already
    scalars, so that they scale the part by their share (about a half).

    Args:
        student: Logits, `[units, classes]`.
        teacher: Logits, `[units, classes]`. No gradient reaches them.
        temperatures: Every T, above 0; at least one.
        instance: The weight of the instance level, at least 0.
        batch: The weight of the batch level, at least 0.
        classes: The weight of the class level, at least 0.

    Returns:
        A scalar, never negative; float32 for half-precision logits; 0 without elements. The
        published weight of every part is 9 on CIFAR-100.

    Raises:
        InputError: A wrong shape, integer logits, no temperature or one <= 0, or a negative weight.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> multi_level(torch.zeros(2, 2), teacher, temperatures=[1.0])
        tensor(0.3992)

    Source: Jin, Wang and Lin 2023.
    """
    z, t = logit_pair(student, teacher, where="multi_level")
    _check_temperatures(temperatures)
    check_weight(instance, where="multi_level.instance")
    check_weight(batch, where="multi_level.batch")
    check_weight(classes, where="multi_level.classes")
    if not len(z):
        return z.sum()
    value = z.new_zeros(())
    for temperature in temperatures:
        ones, units, columns = _levels(z, t, temperature)
        value = value + instance * ones + batch * units + classes * columns
    return value


def _levels(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the three levels at one temperature."""
    q, p = _softmax(student, temperature), _softmax(teacher, temperature)
    with without_autocast(q):
        units = (p @ p.T - q @ q.T).square().sum() / p.shape[0]
        columns = (p.T @ p - q.T @ q).square().sum() / p.shape[1]
    return forward_kl(student, teacher, temperature).mean(), units, columns


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    return (logits.clamp_min(_RULED_OUT) / temperature).softmax(-1)


def _check_temperatures(temperatures: object) -> None:
    where = "multi_level.temperatures"
    if not isinstance(temperatures, list | tuple) or not temperatures:
        raise InputError(Problem(where, temperatures, "a list of numbers above 0", "Try [4.0]."))
    for place, temperature in enumerate(temperatures):
        check_temperature(temperature, where=f"{where}[{place}]")
