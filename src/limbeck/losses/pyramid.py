"""The hierarchical context loss (HCL) of ReviewKD: one value per sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.losses.maps import check_maps, mean_of_each, pooled
from limbeck.precision import precise_pair

_SIZES = (4, 2, 1)


def review(
    student: Float[Tensor, "samples ..."] | Sequence[Float[Tensor, "samples ..."]],
    teacher: Float[Tensor, "samples ..."] | Sequence[Float[Tensor, "samples ..."]],
) -> Float[Tensor, " samples"]:
    r"""Compute the hierarchical context loss (HCL) of ReviewKD: MSE of maps at several sizes.

    The map itself, and its average-pooled 4×4, 2×2 and 1×1 maps, with weights 1, 1/2, 1/4, 1/8; a
    size that is not below the map's height is skipped, and the next one has its weight:

    $$\frac{\sum_l w_l \, \mathrm{mean}\left(P_l(f) - P_l(g)\right)^2}{\sum_l w_l}$$

    Several pairs of layers are summed.

    Scale: the mean over features, as published; the published weights apply as they are (on
    CIFAR-100 0.6 to 8, per pair of models, ramped up over the first 20 epochs).

    Args:
        student: Maps f `[samples, channels, height, width]`, vectors `[samples, d]` (maps of 1×1),
            sequences `[samples, tokens, d]` (averaged along the tokens), or several of these, each
            of its teacher's shape. `limbeck.connectors.fusion` computes them by fusing deeper
            layers into shallower ones.
        teacher: The same number, in the same order. No gradient reaches them.

    Returns:
        One value per sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Different shapes or numbers of layers, unsupported numbers of dimensions,
            integer dtypes.

    Example:
        >>> import torch
        >>> maps = torch.ones(2, 3, 8, 8), torch.ones(2, 6, 4, 4)
        >>> review(maps[0], 0 * maps[0])
        tensor([1., 1.])
        >>> review(maps, [0 * layer for layer in maps])
        tensor([2., 2.])

    Source: Chen et al. 2021 (ReviewKD, hierarchical context loss).
    """
    ours = [student] if isinstance(student, Tensor) else list(student)
    theirs = [teacher] if isinstance(teacher, Tensor) else list(teacher)
    if not ours or len(ours) != len(theirs):
        given = f"student {len(ours)}, teacher {len(theirs)}"
        raise InputError(Problem("review.teacher", given, "as many layers as the student, not 0"))
    for f, g in zip(ours, theirs, strict=True):
        check_maps(f, g, where="review", alike="shape", axes=(2, 3, 4))
        if len(f) != len(ours[0]):
            given = f"{len(f)} and {len(ours[0])} samples"
            raise InputError(Problem("review.student", given, "layers of the same samples"))
    values = [_compare(f, g) for f, g in zip(ours, theirs, strict=True)]
    return values[0] if len(values) == 1 else torch.stack(values).sum(0)


def _compare(student: Tensor, teacher: Tensor) -> Tensor:
    # Pooling is linear: the difference is pooled once instead of both sides.
    ours, theirs = precise_pair(student, teacher)
    difference = _channels_second(ours - theirs)
    value, weight, total = mean_of_each(difference.square()), 1.0, 1.0
    for size in _SIZES:
        if size < difference.shape[2]:
            weight /= 2
            total += weight
            coarse = pooled(difference, [size] * (difference.ndim - 2))
            value = value + weight * mean_of_each(coarse.square())
    return value / total


def _channels_second(features: Tensor) -> Tensor:
    if features.ndim == 2:
        return features.unsqueeze(-1)
    return features.transpose(1, 2) if features.ndim == 3 else features
