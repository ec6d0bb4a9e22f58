"""The fused divergence as one custom operation, which a compiler does not trace.

In a trace its blocks would be unrolled, and might all be in memory at once. An operation accepts
only tensors and plain settings, so the arguments are flattened here and rebuilt inside. Outside of
compiled code it is an autograd function: that of `torch.library` would return a derivative of 0 in
forward mode, without an error.
"""

# No `from __future__ import annotations`: the operation's schema is read from the annotations.

import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Optional, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from limbeck.errors import InputError, Problem
from limbeck.losses._fused import Head, Reduction, Work, run
from limbeck.losses._kinds import Kind, Measure
from limbeck.targets import DenseTargets, HeadTargets, SampledTargets, Tail, Targets, TopKTargets


def whole(hidden: Tensor, weight: Tensor, bias: Tensor | None, work: Work) -> Tensor:
    """Compute the fused divergence in one operation, together with all three gradients.

    Raises:
        InputError: Forward-mode differentiation is used.
    """
    measure, targets = work.measure, work.targets
    tensors = (hidden, weight, bias, work.labels, work.weights)
    settings = (
        _wanted(hidden, weight, bias),
        type(targets).__name__,
        getattr(targets, "classes", None),
        getattr(targets, "tail", "bucket"),
        getattr(targets, "softcap", None),
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
    found: tuple[Tensor, ...]
    if not torch.compiler.is_compiling():
        found = _Fused.apply(settings, *tensors, *_parts(targets))
    elif forward_ad._current_level >= 0:
        raise InputError(_no_such("a derivative in forward mode"))
    else:
        found = _operation(*tensors, _parts(targets), *settings)
    return found[0]


def _wanted(*sides: Tensor | None) -> list[bool]:
    training = torch.is_grad_enabled()
    return [training and side is not None and side.requires_grad for side in sides]


def _parts(targets: Targets) -> list[Tensor]:
    """Return the tensors of the teacher's targets; only the last may be None."""
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


# Optional and not a union, which older torch cannot parse.
def _compute(
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


_operation = torch.library.custom_op("limbeck::fused_divergence", _compute, mutates_args=())


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
    ctx.save_for_backward(*output[1:], *inputs[:3])


class _Scaled(torch.autograd.Function):
    """Scaling of a gradient that was computed in the forward pass.

    It depends on the `sides`, too, but their intermediate values are released: without them here, a
    second derivative would be 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(slope: Tensor, gradient: Tensor, *sides: Tensor | None) -> Tensor:
        # Not in place: the graph may be run again.
        return slope * gradient.to(slope.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise InputError(_no_such("a second derivative"))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise InputError(_no_such("a second derivative"))


def _no_such(derivative: str) -> Problem:
    allowed = "a first derivative in reverse mode"
    fix = "Use divergence on logits, which has all derivatives."
    return Problem("fused_divergence", derivative, allowed, fix)


def _slopes(ctx: Any, gradient: Tensor) -> list[Tensor | None]:
    slopes, sides = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
    pairs = zip(slopes, ctx.wanted, strict=True)
    return [_Scaled.apply(slope, gradient, *sides) if want else None for slope, want in pairs]


def _backward(ctx: Any, gradient: Tensor, *unused: Tensor) -> tuple[Any, ...]:
    return *_slopes(ctx, gradient), None, None, [None] * ctx.parts, *(None,) * ctx.settings


_operation.register_autograd(_backward, setup_context=_keep)


class _Fused(torch.autograd.Function):
    """Value and gradients in one forward pass; backward only scales them."""

    @staticmethod
    def forward(settings: tuple[Any, ...], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = cast("Any", _compute)(*tensors[:5], tensors[5:], *settings)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.wanted, ctx.others = inputs[0][0], len(inputs) - 4
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *inputs[1:4])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_slopes(ctx, gradient), *(None,) * ctx.others

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise InputError(_no_such("a derivative in forward mode"))

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], Any]:
        found = []
        for place in range(info.batch_size):
            pairs = zip(inputs[1:], dims[1:], strict=True)
            tensors = [one if d is None else one.select(d, place) for one, d in pairs]
            # For a gradient outside of `vmap`, only these show that one is required.
            wanted = map(operator.or_, inputs[0][0], _wanted(*tensors[:3]))
            settings = ([*wanted], *inputs[0][1:])
            found.append(_Fused.apply(settings, *tensors))
        return tuple(torch.stack(column) for column in zip(*found, strict=True)), (0, 0, 0, 0)


def _autocast_type(device: str) -> torch.dtype | None:
    available = torch.amp.is_autocast_available(device)
    on = available and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else None


def _within(autocast: torch.dtype | None, device: str) -> AbstractContextManager[object]:
    # Compiled code runs with autocast off: its casts are already in the operations.
    return nullcontext() if autocast is None else torch.autocast(device, autocast)
