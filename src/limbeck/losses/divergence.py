"""Divergences between student and teacher distributions (KL, JSD, TVD): one value per element.

`kinds` defines the kinds and the treatment of -inf; `blocks` computes dense targets, `sparse` top-k
and sampled ones, and `fused` also computes the logits.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.losses.blocks import dense
from limbeck.losses.inputs import check_logits, outside
from limbeck.losses.kinds import Kind, Measure
from limbeck.losses.sparse import sampled, top_k
from limbeck.targets import DenseTargets, HeadTargets, SampledTargets, Targets, TopKTargets

_SLACK = 0.02  # the rounding error of a sum of probabilities in half precision


def divergence(
    student: Float[Tensor, "units student_classes"],
    targets: Targets,
    *,
    kind: Kind = "forward_kl",
    temperature: float,
    beta: float | None = None,
    normalized: bool = False,
) -> Float[Tensor, " units"]:
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
    as one more class at temperature 1, or without them. For sampled classes, value and gradient are
    unbiased: `SampledTargets` of a teacher without -inf logits.

    T² makes the gradient's size independent of the temperature for the first three; that of `tvd`
    falls only with 1/T, and so grows with T. If the vocabularies are padded differently, only
    common classes are compared.

    Args:
        student: Logits, `[units, student classes]`.
        targets: The teacher's targets for the same elements: all logits, top-k classes, sampled
            classes, or hidden states with the head. No gradient reaches them.
        kind: `forward_kl` (mean-seeking), `reverse_kl` (mode-seeking), `jsd` (between them) or
            `tvd` (bounded).
        temperature: T, above 0.
        beta: The weight of p in m, in (0, 1); 0.5 if not given. Only for `jsd`.
        normalized: Whether to divide by β(1−β): the limits are `forward_kl` for β → 0 and
            `reverse_kl` for β → 1. Only for `jsd`.

    Returns:
        One value per element in nats, `[units]`, never negative (`forward_kl` of sampled classes:
        in expectation); float32 for half-precision logits. The backward pass saves only the inputs
        and a few numbers per element.

    Raises:
        InputError: A wrong shape, integer logits, a temperature <= 0 or different from that of
            sampled targets, an unknown kind, or an invalid beta.

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

    Source: Kim and Rush 2016; Agarwal et al. 2024 (GKD); Gu et al. 2024 (MiniLLM); for sampled
    classes Anshumann et al. 2025.
    """
    check_logits(student, where="divergence.student")
    measure = Measure.of("divergence", kind, temperature, beta, normalized)
    units, classes = student.shape
    check_targets(
        targets, units=units, classes=classes, measure=measure, where="divergence.targets"
    )
    if isinstance(targets, TopKTargets):
        return top_k(student, targets, measure)
    if isinstance(targets, SampledTargets):
        return sampled(student, targets, measure)
    return dense(student, targets, measure)


def forward_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute T²·KL(teacher ‖ student) of checked logits of one shape, as `soft_target_kl`."""
    return dense(student, DenseTargets(teacher), Measure("forward_kl", float(temperature)))


def check_targets(
    targets: object, *, units: int, classes: int, measure: Measure, where: str
) -> None:
    """Raise an error for targets of another type, shape or sampling temperature.

    Class ids out of range or repeated, and probabilities that sum to more than 1, are checked on a
    CPU only: elsewhere the check would synchronise the device.

    Raises:
        InputError: The targets are invalid.
    """
    if not isinstance(targets, DenseTargets | TopKTargets | SampledTargets | HeadTargets):
        allowed = "DenseTargets, TopKTargets, SampledTargets or HeadTargets"
        fix = "Wrap logits: DenseTargets(logits)." if isinstance(targets, Tensor) else ""
        raise InputError(Problem(where, type(targets).__name__, allowed, fix))
    if isinstance(targets, DenseTargets):
        check_logits(targets.logits, where=where)
    if targets.units != units:
        allowed = f"{units} units, as the student has"
        raise InputError(Problem(where, f"{targets.units} units", allowed))
    if isinstance(targets, SampledTargets) and targets.temperature != measure.temperature:
        raise InputError(
            Problem(
                f"{where}.temperature",
                targets.temperature,
                f"{measure.temperature}, the temperature of the divergence",
                f"Draw at that one: SampledTargets.draw(..., temperature={measure.temperature}).",
            )
        )
    if isinstance(targets, SampledTargets | TopKTargets):
        known = targets.classes or classes
        if wrong := outside(targets.ids, known):
            raise InputError(Problem(f"{where}.ids", wrong[0], f"classes from 0 to {known - 1}"))
    if isinstance(targets, TopKTargets):
        _check_likeliest(targets, where=where)


def _check_likeliest(targets: TopKTargets, *, where: str) -> None:
    ids, logs = targets.ids, targets.log_probabilities.detach()
    if ids.device.type != "cpu" or torch.compiler.is_compiling() or not ids.numel():
        return
    ordered = ids.sort(-1).values
    try:
        twice = bool((ordered[:, 1:] == ordered[:, :-1]).any())
        total = float(logs.float().logsumexp(-1).max().exp())
    except RuntimeError:  # under `torch.func.vmap` values cannot be read
        return
    if twice:
        raise InputError(Problem(f"{where}.ids", "a class twice in one unit", "each class once"))
    if total > 1 + _SLACK:
        fix = "Take logarithms of probabilities at a temperature of 1, not logits."
        given = f"probabilities that sum to {total:.3g}"
        raise InputError(Problem(f"{where}.log_probabilities", given, "at most 1 a unit", fix))
