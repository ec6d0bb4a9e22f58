"""Divergence of all logits, a block of rows at a time.

Forward keeps its inputs and nothing else of their size; backward computes each block again and
writes its gradient, in the type of the logits. Blocks are small enough to stay in a processor's
cache, which makes this faster than whole matrices, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.losses.kinds import Measure, closed_form, forward_kl_of_finite
from limbeck.losses.known import is_small, known, wants_slope
from limbeck.precision import precise
from limbeck.targets import DenseTargets, HeadTargets

# Elements of a block: on a processor a share of the whole, within what its caches hold; elsewhere
# as many as make the launches of kernels cheap.
_CACHED = (2**16, 2**18)
_LAUNCHED = 2**25
_SMALL = 2**18  # up to so many elements in full precision the gradient is formed at once and kept


def dense(student: Tensor, targets: DenseTargets | HeadTargets, measure: Measure) -> Tensor:
    """Divergence of checked logits over the classes that both sides have, `[units]`."""
    if measure.kind == "forward_kl" and isinstance(targets, DenseTargets):
        return forward_kl_of_all(student, targets.logits, measure)
    return _careful(student, targets, measure)


def forward_kl_of_all(student: Tensor, teacher: Tensor, measure: Measure) -> Tensor:
    """Do as `dense` does; the commonest of all, a few logits that rule nothing out, goes faster."""
    found, temperature = None, measure.temperature
    if is_small(student, teacher):
        found = forward_kl_of_finite(
            student.detach() / temperature,
            teacher.detach() / temperature,
            temperature,
            slope=wants_slope(student),
        )
    if found is None:
        return _careful(student, DenseTargets(teacher), measure)
    return known(student, teacher, *found, lambda s, t: _careful(s, DenseTargets(t), measure))


def _careful(student: Tensor, targets: DenseTargets | HeadTargets, measure: Measure) -> Tensor:
    form: Callable[..., DenseTargets | HeadTargets]
    parts: tuple[Tensor | None, ...]
    if isinstance(targets, DenseTargets):
        form, parts = DenseTargets, (targets.logits,)
    else:
        form = partial(HeadTargets, softcap=targets.softcap)
        parts = (targets.hidden, targets.weight, targets.bias)
    value: Tensor = _Blocked.apply(student, measure, form, *parts)
    return value


def row_blocks(units: int, classes: int, device: torch.device) -> list[slice]:
    """Divide units into blocks of rows.

    Example:
        >>> row_blocks(5, 2**15, torch.device("cpu"))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if torch.compiler.is_compiling():  # the compiler joins the operations itself
        return [slice(0, units)]
    smallest, largest = _CACHED
    elements = max(smallest, min(largest, units * classes // 16))
    rows = max(1, (elements if device.type == "cpu" else _LAUNCHED) // classes)
    return [slice(start, min(start + rows, units)) for start in range(0, units, rows)]


def widened(slope: Tensor, classes: int) -> Tensor:
    """Give the classes that only the student has a gradient of 0."""
    missing = classes - slope.shape[1]
    return F.pad(slope, (0, missing)) if missing else slope


class _Blocked(torch.autograd.Function):
    """Any kind, with its gradient in closed form.

    Recorded operation by operation it takes three times as long, which a small student's step
    feels. The backward pass is itself differentiable.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        measure: Measure,
        form: Callable[..., DenseTargets | HeadTargets],
        *parts: Tensor | None,
    ) -> Tensor:
        targets = _common(form(*parts), student.shape[1])
        size, slope = targets.units * targets.classes, None
        if 0 < size <= _SMALL and precise(student) is student:
            value, slope = _block(student, targets, None, measure, ctx.needs_input_grad[0])
        else:
            rows = _blocks(student, targets)
            value = torch.cat([_block(student, targets, r, measure, False)[0] for r in rows])
        ctx.save_for_backward(student, slope, *parts)
        ctx.measure, ctx.form = measure, form
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        student, slope, *parts = ctx.saved_tensors
        others = (None,) * (2 + len(parts))
        factor = (gradient * ctx.measure.temperature).unsqueeze(-1)
        recorded = torch.is_grad_enabled()  # the gradient will itself be differentiated
        if slope is not None and not recorded:
            return widened(slope * factor, student.shape[1]), *others
        targets = _common(ctx.form(*parts), student.shape[1])
        if recorded:
            whole = _block(student, targets, None, ctx.measure, True)[1] * factor
            return widened(whole, student.shape[1]).to(student.dtype), *others
        result = student.new_empty(student.shape)
        result[:, targets.classes :] = 0
        for rows in _blocks(student, targets):
            part = _block(student, targets, rows, ctx.measure, True)[1]
            result[rows, : targets.classes] = part.mul_(factor[rows])
        return result, *others


def _blocks(student: Tensor, targets: DenseTargets | HeadTargets) -> list[slice]:
    return row_blocks(targets.units, targets.classes, student.device) or [slice(0, 0)]


def _common(targets: DenseTargets | HeadTargets, classes: int) -> DenseTargets | HeadTargets:
    """Cut the teacher to the classes that the student has; no copy is made."""
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
    slope: bool,
) -> Any:
    """Value and slope of some rows, or of all, in full precision."""
    if rows is not None or isinstance(targets, HeadTargets):
        targets = targets.take(slice(None) if rows is None else rows)
    if rows is not None:
        student = student[rows]
    if student.shape[1] != targets.classes:
        student = student[:, : targets.classes]
    ours = precise(student)
    theirs = targets.logits.to(ours.dtype)
    return closed_form(ours, theirs.detach(), measure, slope=slope)
