"""Shared functions of feature losses: channel dimension and equal sizes.

Dimensions are interpreted as by connectors: `[samples, d]` are vectors, `[samples, tokens, d]`
sequences, `[samples, channels, height, width]` maps. Otherwise channels are the second dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.losses.inputs import check_floating, check_same_shape
from limbeck.precision import precise_pair, without_autocast

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
