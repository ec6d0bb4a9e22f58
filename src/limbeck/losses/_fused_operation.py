"""The fused divergence as one custom operation, which a compiler does not trace.

In a trace its blocks would be unrolled, and might all be in memory at once. An operation accepts
only tensors and plain settings, so the arguments are flattened here and rebuilt inside. Outside of
compiled code it is an autograd function: that of `torch.library` would return a derivative of 0 in
forward mode, without an error.
"""

# No `from __future__ import annotations`: the operation's schema is read from the annotations.

import operator
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Optional, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from limbeck.errors import InputError, Problem
from limbeck.losses._fused import FusedArguments, Head, Reduction, autocast_dtype, fused_value
from limbeck.losses._kinds import DivergenceConfig, Kind
from limbeck.targets import (
    CategoricalTargets,
    DenseTargets,
    HeadTargets,
    SampledTargets,
    Tail,
    TopKTargets,
)


def fused(hidden: Tensor, weight: Tensor, bias: Tensor | None, arguments: FusedArguments) -> Tensor:
    """Compute the fused divergence in one operation, together with all three gradients."""
    config, targets = arguments.config, arguments.targets
    tensors = (hidden, weight, bias, arguments.labels, arguments.weights)
    settings = (
        _wanted(hidden, weight, bias),
        type(targets).__name__,
        getattr(targets, "classes", None),
        getattr(targets, "tail", "bucket"),
        getattr(targets, "softcap", None),
        config.kind,
        config.temperature,
        config.beta,
        config.normalized,
        arguments.label_weight,
        arguments.softcap,
        arguments.reduction,
        arguments.block_bytes,
        autocast_dtype(hidden.device.type),
    )
    results: tuple[Tensor, ...]
    if not torch.compiler.is_compiling():
        results = _Fused.apply(settings, *tensors, *_target_tensors(targets))
    elif forward_ad._current_level >= 0:
        raise _unsupported("a derivative in forward mode")
    else:
        results = _operation(*tensors, _target_tensors(targets), *settings)
    return results[0]


def _wanted(*sides: Tensor | None) -> list[bool]:
    enabled = torch.is_grad_enabled()
    return [enabled and side is not None and side.requires_grad for side in sides]


def _target_tensors(targets: CategoricalTargets) -> list[Tensor]:
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


def _rebuild_targets(
    form: str,
    parts: Sequence[Tensor],
    classes: int | None,
    tail: str,
    softcap: float | None,
    temperature: float,
) -> CategoricalTargets:
    if form == "DenseTargets":
        return DenseTargets(*parts)
    first, second, *rest = parts
    if form == "TopKTargets":
        return TopKTargets(first, second, cast("int", classes), cast("Tail", tail), *rest)
    if form == "SampledTargets":
        proposal = rest[1] if len(rest) > 1 else None
        return SampledTargets(first, second, rest[0], proposal, temperature, classes)
    return HeadTargets(first, second, rest[0] if rest else None, softcap)


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
    targets = _rebuild_targets(form, parts, classes, tail, teacher_softcap, temperature)
    config = DivergenceConfig(cast("Kind", kind), temperature, beta, normalized)
    mode = cast("Reduction", reduction)
    arguments = FusedArguments(
        targets, config, labels, label_weight, softcap, weights, mode, block_bytes
    )
    # Compiled code runs with autocast off: its casts are already in the operations.
    device = hidden.device.type
    with nullcontext() if autocast is None else torch.autocast(device, autocast):
        head = Head(hidden, weight, bias, tuple(wanted))
        value = fused_value(head, arguments)
    first, second, third = (hidden.new_empty(0) if g is None else g for g in head.gradients())
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


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *_, parts, wanted = inputs[:7]
    ctx.wanted, ctx.parts, ctx.settings = wanted, len(parts), len(inputs) - 6
    ctx.save_for_backward(*output[1:], *inputs[:3])


def _backward(ctx: Any, gradient: Tensor, *unused: Tensor) -> tuple[Any, ...]:
    return *_scaled(ctx, gradient), None, None, [None] * ctx.parts, *(None,) * ctx.settings


_operation.register_autograd(_backward, setup_context=_setup_context)


def _scaled(ctx: Any, factor: Tensor) -> list[Tensor | None]:
    gradients, sides = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
    pairs = zip(gradients, ctx.wanted, strict=True)
    return [_Scaled.apply(grad, factor, *sides) if want else None for grad, want in pairs]


def _unsupported(derivative: str) -> InputError:
    allowed = "a first derivative in reverse mode"
    fix = "Use divergence on logits, which has all derivatives."
    return InputError(Problem("fused_divergence", derivative, allowed, fix))


class _Scaled(torch.autograd.Function):
    """Scaling of a gradient that was computed in the forward pass.

    It depends on the `sides`, too, but their intermediate values are released: without them here, a
    second derivative would be 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, factor: Tensor, *sides: Tensor | None) -> Tensor:
        # Not in place: the graph may be run again.
        return gradient * factor.to(gradient.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise _unsupported("a second derivative")

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise _unsupported("a second derivative")


class _Fused(torch.autograd.Function):
    """Value and gradients in one forward pass; backward only scales them."""

    @staticmethod
    def forward(settings: tuple[Any, ...], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        results: tuple[Tensor, ...] = cast("Any", _compute)(*tensors[:5], tensors[5:], *settings)
        return results

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.wanted, ctx.others = inputs[0][0], len(inputs) - 4
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *inputs[1:4])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_scaled(ctx, gradient), *(None,) * ctx.others

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise _unsupported("a derivative in forward mode")

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], Any]:
        results = []
        for copy in range(info.batch_size):
            pairs = zip(inputs[1:], dims[1:], strict=True)
            tensors = [x if dim is None else x.select(dim, copy) for x, dim in pairs]
            # For a gradient outside of `vmap`, only these show that one is required.
            wanted = map(operator.or_, inputs[0][0], _wanted(*tensors[:3]))
            settings = ([*wanted], *inputs[0][1:])
            results.append(_Fused.apply(settings, *tensors))
        return tuple(torch.stack(column) for column in zip(*results, strict=True)), (0, 0, 0, 0)
