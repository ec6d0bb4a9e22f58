"""Divergence of dense logits, computed in blocks of rows.

Forward saves only its inputs; backward recomputes each block and writes its gradient, in the dtype
of the logits. Blocks fit into a processor's cache, which also makes them faster than whole
matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.losses.kinds import Measure, closed_form
from limbeck.precision import precise
from limbeck.targets import DenseTargets, HeadTargets

# Elements per block: on a CPU a part of the whole that fits into its caches; elsewhere enough to
# make kernel launches cheap.
_CACHED = (2**16, 2**18)
_LAUNCHED = 2**25
_PLAIN = 2**20  # up to this size, the tensors saved by autograd are negligible


def dense(student: Tensor, targets: DenseTargets | HeadTargets, measure: Measure) -> Tensor:
    """Compute the divergence of checked logits over the common classes, `[units]`."""
    targets = _common(targets, student.shape[1])
    if is_plain(targets.units * targets.classes):
        return _block(student, targets, None, measure, slope=False)[0]
    form: Callable[..., DenseTargets | HeadTargets] = DenseTargets
    parts: tuple[Tensor | None, ...]
    if isinstance(targets, DenseTargets):
        parts = (targets.logits.detach(),)
    else:
        form = partial(HeadTargets, softcap=targets.softcap)
        sides = (targets.hidden, targets.weight, targets.bias)
        parts = tuple(None if side is None else side.detach() for side in sides)
    value: Tensor = _Blocked.apply(student, measure, form, *parts)
    return value


def is_plain(elements: int) -> bool:
    """Return whether to use plain operations: below this size blocks save little memory.

    A compiler fuses the operations itself.

    Example:
        >>> is_plain(1000), is_plain(10**7)
        (True, False)
    """
    return elements <= _PLAIN or torch.compiler.is_compiling()


def row_blocks(units: int, classes: int, device: torch.device) -> list[slice]:
    """Divide elements into blocks of rows.

    Example:
        >>> row_blocks(5, 2**15, torch.device("cpu"))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if torch.compiler.is_compiling():  # the compiler fuses the operations itself
        return [slice(0, units)]
    smallest, largest = _CACHED
    elements = max(smallest, min(largest, units * classes // 16))
    rows = max(1, (elements if device.type == "cpu" else _LAUNCHED) // classes)
    return [slice(start, min(start + rows, units)) for start in range(0, units, rows)]


def widened(slope: Tensor, classes: int) -> Tensor:
    """Pad a gradient with 0 for the classes that only the student has."""
    missing = classes - slope.shape[1]
    return F.pad(slope, (0, missing)) if missing else slope


class _Blocked(torch.autograd.Function):
    """Any kind of divergence with a closed-form gradient, without saved tensors of logit size.

    The backward pass is itself differentiable.
    """

    @staticmethod
    def forward(
        student: Tensor,
        measure: Measure,
        form: Callable[..., DenseTargets | HeadTargets],
        *parts: Tensor | None,
    ) -> Tensor:
        targets = form(*parts)
        rows = _blocks(student, targets)
        return torch.cat([_block(student, targets, r, measure, slope=False)[0] for r in rows])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        student, ctx.measure, ctx.form, *parts = inputs
        ctx.save_for_backward(student, *parts)
        ctx.save_for_forward(student, *parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        student, *parts = ctx.saved_tensors
        targets = ctx.form(*parts)
        factor = (gradient * ctx.measure.temperature).unsqueeze(-1)
        result = None if torch.is_grad_enabled() else _gradient(student, targets, ctx, factor)
        if result is None:  # double backward, or batched gradients
            whole = _block(student, targets, None, ctx.measure, slope=True)[1] * factor
            result = widened(whole, student.shape[1]).to(student.dtype)
        return result, *(None,) * (2 + len(parts))

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: Tensor | None) -> Tensor:
        student, *parts = ctx.saved_tensors
        targets = ctx.form(*parts)
        values = []
        for rows in _blocks(student, targets):
            slope = _block(student, targets, rows, ctx.measure, slope=True)[1]
            values.append((slope * tangent[rows, : targets.classes].to(slope.dtype)).sum(-1))
        return torch.cat(values) * ctx.measure.temperature

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        return over_copies(_Blocked.apply, info.batch_size, dims, inputs), 0


def over_copies(
    function: Callable[..., Tensor], copies: int, dims: Sequence[int | None], inputs: Sequence[Any]
) -> Tensor:
    """Run a function for each copy of `torch.func.vmap`, one after the other."""
    found = []
    for place in range(copies):
        pairs = zip(inputs, dims, strict=True)
        found.append(function(*(one if d is None else one.select(d, place) for one, d in pairs)))
    return torch.stack(found)


def _gradient(
    student: Tensor, targets: DenseTargets | HeadTargets, ctx: Any, factor: Tensor
) -> Tensor | None:
    """Compute the gradient block by block; None for batched factors, as in `vmap`."""
    result = student.new_empty(student.shape)
    result[:, targets.classes :] = 0
    try:
        for rows in _blocks(student, targets):
            part = _block(student, targets, rows, ctx.measure, slope=True)[1]
            result[rows, : targets.classes] = part * factor[rows]
    except RuntimeError:
        return None
    return result


def _blocks(student: Tensor, targets: DenseTargets | HeadTargets) -> list[slice]:
    return row_blocks(targets.units, targets.classes, student.device) or [slice(0, 0)]


def _common(targets: DenseTargets | HeadTargets, classes: int) -> DenseTargets | HeadTargets:
    """Restrict the teacher to the student's classes, without a copy."""
    if targets.classes <= classes:
        return targets
    if isinstance(targets, HeadTargets):
        return targets.cut(classes)
    return DenseTargets(targets.logits[:, :classes])


def _block(
    student: Tensor,
    targets: DenseTargets | HeadTargets,
    rows: slice | None,
    measure: Measure,
    *,
    slope: bool,
) -> Any:
    """Compute value and slope of some rows, or of all, in full precision."""
    if rows is not None or isinstance(targets, HeadTargets):
        targets = targets.take(slice(None) if rows is None else rows)
    if rows is not None:
        student = student[rows]
    if student.shape[1] != targets.classes:
        student = student[:, : targets.classes]
    ours = precise(student)
    theirs = targets.logits.to(ours.dtype)
    return closed_form(ours, theirs.detach(), measure, slope=slope)
