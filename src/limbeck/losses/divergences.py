"""Divergences between student and teacher distributions: KL, JSD, TVD, DKD, TTM, DIST, MLKD.

`_kinds` defines the kinds and the treatment of -inf; `_blocks` computes dense targets, `_sparse`
top-k and sampled ones, and `fused` also computes the logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from limbeck.core.annotations import OnlyWith
from limbeck.core.tensors import norm, without_autocast
from limbeck.errors import InputError, Problem
from limbeck.losses._blocks import dense
from limbeck.losses._inputs import (
    check_labels,
    check_logits,
    check_targets,
    check_temperature,
    check_weights,
    checked_lookup,
    logit_pair,
)
from limbeck.losses._kinds import (
    MINIMUM_LOGIT,
    DivergenceConfig,
    Kind,
    Mixture,
    conditioned,
    not_negative,
)
from limbeck.losses._sparse import sampled, top_k
from limbeck.losses._types import Labels, Logits, PerElement, Scalar
from limbeck.targets import CategoricalTargets, DenseTargets, SampledTargets, TopKTargets

Temperatures: TypeAlias = Annotated[Sequence[PositiveFloat], Field(min_length=1)]


def divergence(
    student: Float[Tensor, "elements student_classes"],
    targets: CategoricalTargets,
    *,
    kind: Kind = "forward_kl",
    temperature: PositiveFloat,
    beta: Annotated[Mixture | None, OnlyWith("kind", "jsd")] = None,
    normalized: Annotated[bool, OnlyWith("kind", "jsd")] = False,
) -> PerElement:
    r"""Compute a divergence (KL, reverse KL, JSD or TVD) between student and teacher.

    With p the teacher's and q the student's softmax at temperature T, and m = βp + (1−β)q:

    $$
    \begin{aligned}
    \text{forward\_kl} &= T^2 \sum p \log(p/q) &
    \text{reverse\_kl} &= T^2 \sum q \log(q/p) \\
    \text{jsd} &= T^2 \left[\beta\,KL(p\|m) + (1-\beta)\,KL(q\|m)\right] &
    \text{tvd} &= T^2\,\tfrac12 \sum |p - q|
    \end{aligned}
    $$

    Top-k classes are compared with the student's same classes and, depending on `tail`, all others
    as one more class at temperature 1, or without them. For sampled classes of a teacher without
    -inf logits, value and gradient are unbiased.

    T² makes the gradient's size independent of the temperature for the first three; that of `tvd`
    falls only with 1/T, and so grows with T. If the vocabularies are padded differently, only
    common classes are compared.

    Args:
        student: Logits, `[elements, student classes]`.
        targets: The teacher's targets for the same elements: all logits, top-k classes, sampled
            classes, or hidden states with the head.
        kind: `forward_kl` (mean-seeking), `reverse_kl` (mode-seeking), `jsd` (between them) or
            `tvd` (bounded).
        temperature: T, above 0.
        beta: The weight of p in m, in (0, 1); 0.5 if not given. Only for `jsd`.
        normalized: Whether to divide by β(1−β): the limits are `forward_kl` for β → 0 and
            `reverse_kl` for β → 1. Only for `jsd`.

    Returns:
        One value per element in nats, `[elements]`, never negative (`forward_kl` of samples:
        in expectation). The backward pass saves only the inputs and a few numbers per element.

    Raises:
        InputError: A wrong shape or dtype, a temperature <= 0 or different from that of sampled
            targets, an unknown kind, or an invalid beta.

    Example:
        >>> from limbeck.targets import DenseTargets
        >>> targets = DenseTargets(torch.tensor([[2.0, 0.0]]))
        >>> divergence(torch.zeros(1, 2), targets, kind="reverse_kl", temperature=1.0)
        tensor([0.4338])

    Source: Kim and Rush 2016; Agarwal et al. 2024 (GKD); Gu et al. 2024 (MiniLLM); for sampled
    classes Anshumann et al. 2025.
    """
    check_logits(student, where="divergence.student")
    config = DivergenceConfig.of("divergence", kind, temperature, beta, normalized)
    elements, classes = student.shape
    where = "divergence.targets"
    check_targets(targets, elements, classes, config.kind, config.temperature, where=where)
    if isinstance(targets, TopKTargets):
        return top_k(student, targets, config)
    if isinstance(targets, SampledTargets):
        return sampled(student, targets, config)
    return dense(student, targets, config)


def forward_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute T²·KL(teacher ‖ student) of checked logits of one shape, as `soft_target_kl`."""
    config = DivergenceConfig("forward_kl", float(temperature))
    return dense(student, DenseTargets(teacher), config)


def dkd(
    student: Logits,
    teacher: Logits,
    *,
    labels: Labels,
    alpha: NonNegativeFloat = 1.0,
    beta: NonNegativeFloat = 8.0,
    temperature: PositiveFloat = 4.0,
) -> PerElement:
    r"""Compute decoupled knowledge distillation (DKD): α · TCKD + β · NCKD.

    With $b = (p_y, 1 - p_y)$ and $\hat p$ the distribution over all classes but y, both at
    temperature T:

    $$T^2 \left[\alpha\,KL(b^t \| b^s) + \beta\,KL(\hat p^t \| \hat p^s)\right]$$

    `soft_target_kl` is the same with α = 1 and β = 1 − p_y of the teacher, which weights the
    non-target classes less for a confident teacher. The target class is excluded exactly, for
    logits of any size. If no class remains (one class, or -inf for all others), NCKD is 0. If
    student logits are -inf, the teacher is conditioned on the other classes, as in `divergence`.

    Args:
        student: Logits, `[elements, classes]`.
        teacher: Logits, `[elements, classes]`.
        labels: The labels y, `[elements]`.
        alpha: The weight of target class distillation (TCKD), at least 0.
        beta: The weight of non-target class distillation (NCKD), at least 0. The paper tunes it per
            pair of networks; 8 is its value for ResNet32x4 and ResNet8x4.
        temperature: T, above 0.

    Returns:
        Values in nats, `[elements]`, never negative. The published weight is 1, with a
        cross-entropy of weight 1, ramped up over the first 20 epochs on CIFAR-100.

    Raises:
        InputError: A wrong shape, dtype or label (checked on a CPU), a negative weight, or a
            temperature <= 0.

    Example:
        >>> student, teacher = torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 0.0]])
        >>> dkd(student, teacher, labels=torch.tensor([0]), temperature=1.0)
        tensor([1.1166])

    Source: Zhao et al. 2022.
    """
    student, teacher = logit_pair(student, teacher, where="dkd")
    check_labels(labels, student, where="dkd.labels")
    check_weights("dkd", alpha=alpha, beta=beta)
    check_temperature(temperature, where="dkd.temperature")
    targets = labels.long().unsqueeze(-1)
    teacher = conditioned(teacher, student)
    with checked_lookup(labels, student, where="dkd.labels"):
        student_odds, log_q, _ = _decouple(student, targets, temperature)
    teacher_odds, log_p, empty = _decouple(teacher, targets, temperature)
    p = log_p.exp().masked_fill(empty, 0)
    target_class = _binary_kl(teacher_odds, student_odds).squeeze(-1)
    other_classes = not_negative((p * (log_p - log_q)).sum(-1))
    return (alpha * target_class + beta * other_classes) * temperature**2


def _decouple(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the target's log-odds, the others' log-probabilities, and the rows without others.

    The target class is included in the others with probability 0.
    """
    logits = (logits / temperature).clamp_min(MINIMUM_LOGIT)
    others = logits.scatter(-1, targets, MINIMUM_LOGIT)
    total = others.logsumexp(-1, keepdim=True)
    return logits.gather(-1, targets) - total, others - total, total < MINIMUM_LOGIT / 2


def _binary_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Compute the KL divergence between two classes, from their log-odds."""
    first = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    second = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return not_negative(first + second)


def ttm(student: Logits, teacher: Logits, *, temperature: PositiveFloat) -> PerElement:
    r"""Compute transformed teacher matching (TTM): KL divergence to the softened teacher only.

    With $p = \mathrm{softmax}(t)$ and γ = 1/T:

    $$KL\left(\frac{p^\gamma}{\sum_i p_i^\gamma} \,\Big\|\, \mathrm{softmax}(z)\right)$$

    Only the teacher is softened: $p^\gamma$, normalised to sum 1, is softmax(t/T). There is no T²:
    the student's gradient is q − p at every temperature. The minimum, 0, is at z = t/T and not at
    z = t.

    Args:
        student: Logits z, `[elements, classes]`.
        teacher: Logits t, `[elements, classes]`.
        temperature: T, above 0.

    Returns:
        One value per element in nats, `[elements]`, never negative. Published for VGG13 and VGG8 on
        CIFAR-100 with T = 10 and a weight of 45, with a cross-entropy of weight 1.

    Raises:
        InputError: A wrong shape or dtype, or a temperature <= 0.

    Example:
        >>> teacher = torch.tensor([[8.0, 0.0]])
        >>> ttm(torch.tensor([[2.0, 0.0]]), teacher, temperature=4.0)
        tensor([0.])

    Source: Zheng and Yang 2024.
    """
    student, teacher = logit_pair(student, teacher, where="ttm")
    check_temperature(temperature, where="ttm.temperature")
    return forward_kl(student, teacher / temperature, 1.0)


def wttm(student: Logits, teacher: Logits, *, temperature: PositiveFloat) -> PerElement:
    r"""Compute weighted transformed teacher matching (WTTM): TTM times a weight per element.

    With $p = \mathrm{softmax}(t)$ and γ = 1/T:

    $$\Big(\sum_i p_i^\gamma\Big)\,
    KL\left(\frac{p^\gamma}{\sum_i p_i^\gamma} \,\Big\|\, \mathrm{softmax}(z)\right)$$

    For T above 1 the weight is from 1 (a certain teacher) to $C^{1-\gamma}$ (a uniform teacher). As
    in `ttm` there is no T², and the minimum is at z = t/T.

    Args:
        student: Logits z, `[elements, classes]`.
        teacher: Logits t, `[elements, classes]`.
        temperature: T, above 0.

    Returns:
        One value per element in nats, `[elements]`, never negative. Published in combination with
        `crd` on CIFAR-100 with T = 5 and a weight of 4.

    Raises:
        InputError: A wrong shape or dtype, or a temperature <= 0.

    Example:
        >>> wttm(torch.tensor([[4.0, 0.0]]), torch.zeros(1, 2), temperature=2.0)
        tensor([1.8738])

    Source: Zheng and Yang 2024.
    """
    student, teacher = logit_pair(student, teacher, where="wttm")
    check_temperature(temperature, where="wttm.temperature")
    teacher = conditioned(teacher, student)
    logs = F.log_softmax(teacher.clamp_min(MINIMUM_LOGIT), dim=-1)
    powers = (logs / temperature).exp().masked_fill(teacher == -math.inf, 0)
    return powers.sum(-1) * forward_kl(student, teacher / temperature, 1.0)


_EPSILON = 1e-7  # the published code's epsilon of the standard deviation
_CONSTANT = 32  # the tolerance of constant rows, in units in the last place


def standardized_kl(
    student: Logits,
    teacher: Logits,
    *,
    temperature: PositiveFloat = 2.0,
    correction: Literal[0, 1] = 1,
) -> PerElement:
    r"""Compute the KL divergence of standardised (z-scored) logits, times T².

    $$T^2\,KL\left(\mathrm{softmax}\frac{\zeta(t)}T \,\Big\|\, \mathrm{softmax}\frac{\zeta(z)}T
    \right), \; \zeta(z) = \frac{z - \bar z}{\sigma(z) + 10^{-7}}, \;
    \sigma(z)^2 = \frac{\sum_i (z_i - \bar z)^2}{C - \text{correction}}$$

    The student matches the relations of the teacher's logits, not their scale: the value is zero at
    any z = a·t + b with a > 0. Constant logits have scores of 0, without a gradient. Logits of -inf
    are excluded from mean and deviation.

    Args:
        student: Logits z, `[elements, classes]`.
        teacher: Logits t, `[elements, classes]`.
        temperature: T, above 0.
        correction: The correction of the variance: 1 as in the published code, for which the
            published weight applies, 0 as in the paper.

    Returns:
        Values in nats, `[elements]`, never negative. Published on CIFAR-100 with T = 2
        and a weight of 9, with a cross-entropy of weight 1.

    Raises:
        InputError: A wrong shape or dtype, a temperature <= 0, or a correction that is neither 0
            nor 1.

    Example:
        >>> teacher = torch.tensor([[2.0, 1.0, 0.0]])
        >>> standardized_kl(3 * teacher + 5, teacher)
        tensor([0.])

    Source: Sun et al. 2024.
    """
    student, teacher = logit_pair(student, teacher, where="standardized_kl")
    check_temperature(temperature, where="standardized_kl.temperature")
    if correction not in (0, 1):
        raise InputError(Problem("standardized_kl.correction", correction, "0 or 1"))
    teacher = _standardize(conditioned(teacher, student), correction)
    return forward_kl(_standardize(student, correction), teacher, temperature)


def _standardize(logits: Tensor, correction: int) -> Tensor:
    finite = logits != -math.inf
    centred = _centre(logits, finite)
    degrees = (finite.sum(-1, keepdim=True) - correction).clamp_min(1).to(centred.dtype)
    deviation = norm(centred)[0] / degrees.sqrt()
    return (centred / (deviation + _EPSILON)).masked_fill(~finite, -math.inf)


def _centre(logits: Tensor, finite: Tensor) -> Tensor:
    """Subtract each row's mean; a row that is constant up to rounding is 0, without a gradient.

    Classes that are not finite are excluded, and are 0. Without the special case of constant rows,
    the division by their norm would amplify rounding errors.
    """
    logits = logits.masked_fill(~finite, 0)
    count = finite.sum(-1, keepdim=True).clamp_min(1)
    centred = (logits - logits.sum(-1, keepdim=True) / count).masked_fill(~finite, 0)
    sizes = [torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True) for x in (centred, logits)]
    constant = sizes[0] <= _CONSTANT * torch.finfo(centred.dtype).eps * sizes[1]
    return centred.masked_fill(constant, 0)


_MINIMUM_DIVISOR = 1e-8  # of a correlation; the published code adds as much


def dist(
    student: Logits,
    teacher: Logits,
    *,
    beta: NonNegativeFloat = 2.0,
    gamma: NonNegativeFloat = 2.0,
    temperature: PositiveFloat = 1.0,
    epsilon: NonNegativeFloat = 0.0,
) -> Scalar:
    r"""Compute the DIST loss: Pearson correlation of predictions, inter-class and intra-class.

    With P and Q the softmax of teacher and student at temperature T, one row per element, and ρ
    Pearson's correlation:

    $$T^2 \Big[\beta \Big(1 - \frac1B \sum_u \rho(P_{u\cdot}, Q_{u\cdot})\Big) +
    \gamma \Big(1 - \frac1C \sum_c \rho(P_{\cdot c}, Q_{\cdot c})\Big)\Big]$$

    A row or a column that is constant on either side has no correlation: it counts as ρ = 0,
    without a gradient. So the second part is γ·T² for a batch of one element. If the product of the
    two norms is below 1e-8, as for a class of negligible probability in the whole batch, the
    divisor is 1e-8 instead. T² is that of the published code.

    Args:
        student: Logits, `[elements, classes]`.
        teacher: Logits, `[elements, classes]`.
        beta: The weight of the rows (relations between classes), at least 0.
        gamma: The weight of the columns (relations within a class), at least 0.
        temperature: T, above 0; 1 on ImageNet and 4 on CIFAR-100 in the published scripts.
        epsilon: The number added to the divisor of ρ: 0 as in the paper, or 1e-8 as in the
            published code, with which the minimum is not exactly at student = teacher.

    Returns:
        A scalar between 0 and 2·T²(β + γ); 0 without elements. β = γ = 2 are the published weights,
        with a cross-entropy of weight 1.

    Raises:
        InputError: A wrong shape or dtype, a negative weight, or a temperature <= 0.

    Example:
        >>> teacher = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        >>> dist(teacher, teacher).abs() < 1e-6
        tensor(True)

    Source: Huang et al. 2022.
    """
    student, teacher = logit_pair(student, teacher, where="dist")
    check_weights("dist", beta=beta, gamma=gamma, epsilon=epsilon)
    check_temperature(temperature, where="dist.temperature")
    if not len(student):
        return student.sum()
    q, p = _softmax(student, temperature), _softmax(teacher, temperature)
    rows, columns = _correlation(q, p, epsilon), _correlation(q.T, p.T, epsilon)
    value = beta * (1 - rows.mean()) + gamma * (1 - columns.mean())
    return not_negative(value * temperature**2)


def _correlation(q: Tensor, p: Tensor, epsilon: float) -> Tensor:
    """Return Pearson's correlation of each row; 0 if a row of either side is constant."""
    (x, x_norm, x_constant), (y, y_norm, y_constant) = map(_centre_probabilities, (q, p))
    divisor = (x_norm * y_norm + epsilon).clamp_min(_MINIMUM_DIVISOR)
    return (x * y).sum(-1, keepdim=True).masked_fill(x_constant | y_constant, 0) / divisor


def _centre_probabilities(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Subtract the mean of rows; return also their norms, and the mask of constant rows."""
    mean = rows.mean(-1, keepdim=True)
    centred = rows - mean
    noise = _CONSTANT * torch.finfo(rows.dtype).eps * math.sqrt(rows.shape[-1])
    size = torch.linalg.vector_norm(centred.detach(), dim=-1, keepdim=True)
    constant = size <= noise * mean.detach()
    # The norm of rounding errors has no useful derivative, and that of zeros none.
    centred = centred.masked_fill(constant, 0)
    return centred, norm(centred)[0], constant


def mlkd(
    student: Logits,
    teacher: Logits,
    *,
    temperatures: Temperatures = (2.0, 3.0, 4.0, 5.0, 6.0),
    instance: NonNegativeFloat = 1.0,
    batch: NonNegativeFloat = 1.0,
    classes: NonNegativeFloat = 1.0,
) -> Scalar:
    r"""Compute multi-level logit distillation (MLKD): instance, batch and class level.

    With P and Q the softmax of teacher and student at temperature T, a row for each of B elements:

    $$\sum_T \left[ \frac{T^2}{B} \sum_u KL(P_u \| Q_u)
    + \frac1B \left\| P P^\top - Q Q^\top \right\|^2_F
    + \frac1C \left\| P^\top P - Q^\top Q \right\|^2_F \right]$$

    The three parts are multiplied by `instance`, `batch` and `classes`. The published code's masks
    by confidence are omitted: it multiplies them by scalars, so that they only scale a part (by
    about a half).

    Args:
        student: Logits, `[elements, classes]`.
        teacher: Logits, `[elements, classes]`.
        temperatures: Every T, above 0; at least one.
        instance: The weight of the instance level, at least 0.
        batch: The weight of the batch level, at least 0.
        classes: The weight of the class level, at least 0.

    Returns:
        A scalar, never negative; 0 without elements. The published weight of every part is 9 on
        CIFAR-100.

    Raises:
        InputError: A wrong shape or dtype, no temperature or one <= 0, or a negative weight.

    Example:
        >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> mlkd(torch.zeros(2, 2), teacher, temperatures=[1.0])
        tensor(0.3992)

    Source: Jin, Wang and Lin 2023.
    """
    student, teacher = logit_pair(student, teacher, where="mlkd")
    where = "mlkd.temperatures"
    if not isinstance(temperatures, list | tuple) or not temperatures:
        raise InputError(Problem(where, temperatures, "a list of numbers above 0", "Try [4.0]."))
    for place, temperature in enumerate(temperatures):
        check_temperature(temperature, where=f"{where}[{place}]")
    check_weights("mlkd", instance=instance, batch=batch, classes=classes)
    if not len(student):
        return student.sum()
    value = student.new_zeros(())
    for temperature in temperatures:
        q, p = _softmax(student, temperature), _softmax(teacher, temperature)
        with without_autocast(q):
            batch_level = (p @ p.T - q @ q.T).square().sum() / p.shape[0]
            class_level = (p.T @ p - q.T @ q).square().sum() / p.shape[1]
        instance_level = forward_kl(student, teacher, temperature).mean()
        value = value + instance * instance_level + batch * batch_level + classes * class_level
    return value


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    return (logits.clamp_min(MINIMUM_LOGIT) / temperature).softmax(-1)
