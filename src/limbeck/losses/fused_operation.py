"""The fused divergence as one operation, which a compiler leaves whole.

Traced through, its blocks would be unrolled, and might all be kept at once. An operation takes
nothing but tensors and plain settings, so what is asked for is taken apart here and put together
again inside.
"""

# No `from __future__ import annotations`: the operation's schema is read from its annotations.

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Optional, cast

import torch
from torch import Tensor

from limbeck.losses.fused_blocks import Reduction, Work, run
from limbeck.losses.head import Head
from limbeck.losses.kinds import Kind, Measure
from limbeck.targets import DenseTargets, HeadTargets, SampledTargets, Targets, TopKTargets
from limbeck.targets.top_k import Tail


def whole(hidden: Tensor, weight: Tensor, bias: Tensor | None, work: Work) -> Tensor:
    """Do the work in one operation; the gradients of all three come with its value."""
    sides = (hidden, weight, bias)
    training = torch.is_grad_enabled()
    measure = work.measure
    found: tuple[Tensor, ...] = _operation(
        *sides,
        work.labels,
        work.weights,
        _parts(work.targets),
        [training and side is not None and side.requires_grad for side in sides],
        type(work.targets).__name__,
        getattr(work.targets, "classes", None),
        getattr(work.targets, "tail", "bucket"),
        getattr(work.targets, "softcap", None),
        measure.kind,
        measure.temperature,
        measure.beta,
        measure.normalized,
        work.label_weight,
        work.softcap,
        work.reduction,
        work.block_bytes,
        _autocast_type(hidden.device.type),
    )
    return found[0]


def _parts(targets: Targets) -> list[Tensor]:
    """What the teacher's answer holds; only the last may be missing."""
    parts: tuple[Tensor | None, ...]
    if isinstance(targets, DenseTargets):
        parts = (targets.logits,)
    elif isinstance(targets, TopKTargets):
        parts = (targets.ids, targets.log_probabilities, targets.log_tail)
    elif isinstance(targets, SampledTargets):
        parts = (targets.ids, targets.counts, targets.log_probabilities, targets.log_proposal)
    else:
        parts = (targets.hidden, targets.weight, targets.bias)
    return [part.detach() for part in parts if part is not None]


def _together(
    form: str,
    parts: Sequence[Tensor],
    classes: int | None,
    tail: str,
    softcap: float | None,
    temperature: float,
) -> Targets:
    if form == "DenseTargets":
        return DenseTargets(*parts)
    if form == "TopKTargets":
        ids, kept, *rest = parts
        some = cast("Tail", tail)
        return TopKTargets(ids, kept, cast("int", classes), some, rest[0] if rest else None)
    if form == "SampledTargets":
        ids, counts, logs, *rest = parts
        proposal = rest[0] if rest else None
        return SampledTargets(ids, counts, logs, proposal, temperature, classes)
    hidden, weight, *rest = parts
    return HeadTargets(hidden, weight, rest[0] if rest else None, softcap)


# Optional and not a union, which older torch cannot read.
@torch.library.custom_op("limbeck::fused_divergence", mutates_args=())
def _operation(
    hidden: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],  # noqa: UP045
    labels: Optional[Tensor],  # noqa: UP045
    weights: Optional[Tensor],  # noqa: UP045
    parts: Sequence[Tensor],
    wanted: Sequence[bool],
    form: str,
    classes: Optional[int],  # noqa: UP045
    tail: str,
    teacher_softcap: Optional[float],  # noqa: UP045
    kind: str,
    temperature: float,
    beta: float,
    normalized: bool,
    label_weight: float,
    softcap: Optional[float],  # noqa: UP045
    reduction: str,
    block_bytes: Optional[int],  # noqa: UP045
    autocast: Optional[torch.dtype],  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    targets = _together(form, parts, classes, tail, teacher_softcap, temperature)
    measure = Measure(cast("Kind", kind), temperature, beta, normalized)
    work = Work(
        targets,
        measure,
        labels,
        label_weight,
        softcap,
        weights,
        cast("Reduction", reduction),
        block_bytes,
    )
    with _within(autocast, hidden.device.type):
        head = Head(hidden, weight, bias, tuple(wanted))
        value = run(head, work)
    found = (head.to_hidden, *head.to_weights())
    nothing = (hidden.new_empty(0) for _ in found)
    first, second, third = (g if g is not None else n for g, n in zip(found, nothing, strict=True))
    return value, first, second, third


@_operation.register_fake
def _shapes(hidden: Tensor, weight: Tensor, bias: Tensor | None, *others: Any) -> Any:
    wanted = others[3]
    full = torch.promote_types(hidden.dtype, torch.float32)
    gradients = (
        torch.empty_like(side) if want and side is not None else hidden.new_empty(0)
        for side, want in zip((hidden, weight, bias), wanted, strict=True)
    )
    return hidden.new_empty((), dtype=full), *gradients


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *_, parts, wanted = inputs[:7]
    ctx.wanted, ctx.parts, ctx.settings = wanted, len(parts), len(inputs) - 6
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, gradient: Tensor, *unused: Tensor) -> tuple[Any, ...]:
    pairs = zip(ctx.saved_tensors, ctx.wanted, strict=True)
    scaled = [g * gradient.to(g.dtype) if want else None for g, want in pairs]
    return *scaled, None, None, [None] * ctx.parts, *(None,) * ctx.settings


_operation.register_autograd(_backward, setup_context=_keep)


def _autocast_type(device: str) -> torch.dtype | None:
    available = torch.amp.is_autocast_available(device)
    on = available and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else None


def _within(autocast: torch.dtype | None, device: str) -> AbstractContextManager[object]:
    # Compiled code runs with autocast off: what it would do is in the operations by then.
    return nullcontext() if autocast is None else torch.autocast(device, autocast)
