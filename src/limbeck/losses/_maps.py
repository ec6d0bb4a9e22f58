"""Shared functions of feature losses: channel dimension and equal sizes.

Dimensions are interpreted as by connectors: `[samples, d]` are vectors, `[samples, tokens, d]`
sequences, `[samples, channels, height, width]` maps. Otherwise channels are the second dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.core.tensors import precise, precise_pair, without_autocast
from limbeck.errors import InputError, Problem
from limbeck.losses._inputs import check_floating, check_same_shape
from limbeck.losses._kinds import Measure, closed_form
from limbeck.targets import DenseTargets, HeadTargets

Alike: TypeAlias = Literal["samples", "channels", "shape"]
_AXES = {
    2: "[samples, d]",
    3: "[samples, tokens, d]",
    4: "[samples, channels, height, width]",
}


def check_features(student: Tensor, teacher: Tensor, *, where: str) -> None:
    """Raise an error unless features can be compared elementwise.

    Raises:
        InputError: Integer dtypes, different shapes, or no feature dimension.
    """
    check_floating(student, where=f"{where}.student")
    check_floating(teacher, where=f"{where}.teacher")
    check_same_shape(student, teacher, where=f"{where}.teacher")
    _check_filled(student, "a tensor [samples, ...] with at least one feature", f"{where}.student")


def check_maps(
    student: Tensor,
    teacher: Tensor,
    *,
    where: str,
    alike: Alike = "samples",
    axes: Sequence[int] = (3, 4),
) -> None:
    """Raise an error unless two maps or sequences agree as far as a loss requires.

    Raises:
        InputError: Integer dtypes, a wrong number of dimensions, a dimension of size 0, different
            numbers of samples or, if required, of channels.
    """
    allowed = "features " + " or ".join(_AXES[count] for count in axes)
    for features, place in ((student, f"{where}.student"), (teacher, f"{where}.teacher")):
        check_floating(features, where=place)
        if features.ndim not in axes:
            raise InputError(Problem(place, tuple(features.shape), allowed))
        _check_filled(features, allowed + " with no axis of 0 but the samples'", place)
    if alike == "shape":
        check_same_shape(student, teacher, where=f"{where}.teacher")
        return
    given = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if student.ndim != teacher.ndim or len(student) != len(teacher):
        allowed = "features of one kind, of the same samples"
        raise InputError(Problem(f"{where}.teacher", given, allowed))
    axis = channel_axis(student)
    if alike == "channels" and student.shape[axis] != teacher.shape[axis]:
        fix = "A connector joins features of different channels."
        raise InputError(Problem(f"{where}.teacher", given, "as many channels on both sides", fix))


def _check_filled(features: Tensor, allowed: str, where: str) -> None:
    if features.ndim < 2 or 0 in features.shape[1:]:
        raise InputError(Problem(where, tuple(features.shape), allowed))


def channel_axis(features: Tensor) -> int:
    """Return the index of the channel dimension.

    Example:
        >>> channel_axis(torch.zeros(8, 16, 4, 4)), channel_axis(torch.zeros(8, 12, 16))
        (1, 2)
    """
    return 2 if features.ndim == 3 else 1


def per_channel(values: Tensor, features: Tensor, *, where: str) -> Tensor:
    """Reshape one number per channel to broadcast over features; check that other tensors fit.

    Raises:
        InputError: The shapes do not fit.

    Example:
        >>> per_channel(torch.ones(16), torch.zeros(8, 16, 4, 4), where="margin").shape
        torch.Size([16, 1, 1])
    """
    channels = features.shape[channel_axis(features)]
    allowed = f"one number a channel, shape ({channels},), or a shape that broadcasts to "
    problem = Problem(where, tuple(values.shape), f"{allowed}{tuple(features.shape)}")
    if values.ndim == 1 and len(values) != 1:
        if len(values) != channels:
            raise InputError(problem)
        return values if features.ndim == 3 else values.reshape(-1, *[1] * (features.ndim - 2))
    try:
        fits = torch.broadcast_shapes(values.shape, features.shape) == features.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise InputError(problem)
    return values


def aligned(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Move channels to the second dimension, and average-pool the larger map to the smaller size.

    Per dimension: of [8, 4] and [4, 8], both become [4, 4]. The teacher is detached, and half
    precision becomes float32.

    Example:
        >>> ours, theirs = aligned(torch.zeros(2, 8, 4, 4), torch.zeros(2, 16, 8, 8))
        >>> ours.shape, theirs.shape
        (torch.Size([2, 8, 4, 4]), torch.Size([2, 16, 4, 4]))
    """
    ours, theirs = (
        features.transpose(1, 2) if features.ndim == 3 else features
        for features in precise_pair(student, teacher)
    )
    size = [min(pair) for pair in zip(ours.shape[2:], theirs.shape[2:], strict=True)]
    return pooled(ours, size), pooled(theirs, size)


def pooled(features: Tensor, size: Sequence[int]) -> Tensor:
    """Average-pool features `[samples, channels, *space]` to a size."""
    if list(features.shape[2:]) == list(size):
        return features
    if len(size) == 1:
        return F.adaptive_avg_pool1d(features, size[0])
    return F.adaptive_avg_pool2d(features, (size[0], size[1]))


def mean_of_each(features: Tensor) -> Tensor:
    """Average each sample's values, `[samples]`.

    The sum is divided, not each value: this saves a pass over the features in backward.

    Example:
        >>> mean_of_each(torch.ones(2, 3, 4, 4))
        tensor([1., 1.])
    """
    rows = features.flatten(1)
    return rows.sum(1) / rows.shape[1]


def products(left: Tensor, right: Tensor) -> Tensor:
    """Multiply rows with rows, without autocast.

    Example:
        >>> products(torch.ones(1, 2, 3), torch.ones(1, 4, 3)).shape
        torch.Size([1, 2, 4])
    """
    with without_autocast(left):
        return left @ right.mT


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
