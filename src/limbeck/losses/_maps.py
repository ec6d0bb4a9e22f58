"""Shared operations of feature losses: equal sizes, means per sample, products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.core.tensors import without_autocast
from limbeck.errors import InputError, Problem
from limbeck.losses._inputs import channel_axis


def per_channel(values: Tensor, features: Tensor, *, where: str) -> Tensor:
    """Reshape one number per channel to broadcast over features; check that other tensors fit."""
    channels = features.shape[channel_axis(features)]
    allowed = f"one number per channel, shape ({channels},), or a shape that broadcasts to "
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

    Per dimension: of [8, 4] and [4, 8], both become [4, 4].
    """
    student, teacher = channels_second(student), channels_second(teacher)
    size = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return pooled(student, size), pooled(teacher, size)


def channels_second(features: Tensor) -> Tensor:
    """Move channels to the second dimension; vectors become sequences of one token."""
    if features.ndim == 2:
        return features.unsqueeze(-1)
    return features.transpose(1, 2) if features.ndim == 3 else features


def pooled(features: Tensor, size: Sequence[int]) -> Tensor:
    """Average-pool features `[samples, channels, *space]` to a size."""
    if list(features.shape[2:]) == list(size):
        return features
    if len(size) == 1:
        return F.adaptive_avg_pool1d(features, size[0])
    return F.adaptive_avg_pool2d(features, (size[0], size[1]))


def mean_per_sample(features: Tensor) -> Tensor:
    """Average each sample's values, `[samples]`.

    The sum is divided, not each value: this saves a pass over the features in backward.
    """
    rows = features.flatten(1)
    return rows.sum(1) / rows.shape[1]


def products(left: Tensor, right: Tensor) -> Tensor:
    """Compute the inner products of all rows of two matrices, without autocast."""
    with without_autocast(left):
        return left @ right.mT
