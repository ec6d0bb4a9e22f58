"""Relation losses inside a sample: spatial correlation, and FSP matrices; one scalar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.losses.inputs import check_floating
from limbeck.losses.samples import check_same_samples
from limbeck.precision import precise, without_autocast
from limbeck.vectors import unit_length


def spatial_correlation(
    student: Float[Tensor, "samples _ _ _"],
    teacher: Float[Tensor, "samples _ _ _"],
    *,
    normalized: bool = False,
) -> Float[Tensor, ""]:
    r"""Compute the squared difference of spatial correlation matrices between positions.

    With F the map of one sample as `[channels, places]`, and H·W positions:

    $$\frac1N \sum_n \left\| C^S_n - C^T_n \right\|^2_F, \quad C_n = F_n^\top F_n
    \quad [HW \times HW]$$

    Squares are summed over both dimensions of C, then averaged over samples. With `normalized` the
    channels at each position are normalised to length one, so that C are cosines, and the sum is
    divided by (HW)²: independent of channels and size. It is within a sample; the paper's
    `correlation_congruence` is across the samples of a batch. There is no published weight. It is
    cheaper than a Gram matrix of channels only if HW < C: memory grows with (HW)² per sample. Maps
    of different sizes are average-pooled to the smaller height and width.

    Args:
        student: Maps, `[samples, channels, height, width]`.
        teacher: Maps, `[samples, channels, height, width]`; channels may differ in number. No
            gradient reaches them.
        normalized: Whether to compare cosines, by their mean.

    Returns:
        A scalar, at least 0; float32 for half-precision features; 0 for no samples.

    Raises:
        InputError: Features that are not maps, integer dtypes, or different numbers of samples.

    Example:
        >>> import torch
        >>> spatial_correlation(torch.zeros(2, 3, 2, 2), torch.ones(2, 5, 2, 2))
        tensor(400.)

    Source: after Peng et al. 2019.
    """
    where = "spatial_correlation"
    ours, theirs = _maps(student, f"{where}.student"), _maps(teacher.detach(), f"{where}.teacher")
    check_same_samples(student, teacher, where=f"{where}.teacher")
    theirs = theirs.to(ours.dtype)
    if not len(ours):
        return ours.sum()
    mine, other = (_between_places(maps, normalized) for maps in _to_smaller(ours, theirs))
    squares = F.mse_loss(mine, other, reduction="sum") / len(ours)
    return squares / mine[0].numel() if normalized else squares


def _between_places(maps: Tensor, normalized: bool) -> Tensor:
    places = maps.flatten(2).mT
    with without_autocast(places):
        places = unit_length(places) if normalized else places
        return places @ places.mT


def flow(
    student: Sequence[Float[Tensor, "samples _ _ _"]],
    teacher: Sequence[Float[Tensor, "samples _ _ _"]],
) -> Float[Tensor, ""]:
    r"""Compute the FSP loss: squared difference of flow of solution procedure matrices.

    With A and B the maps of an earlier and a later layer, and H·W positions:

    $$\frac1{N C_A C_B} \sum_n \left\| G^S_n - G^T_n \right\|^2_F, \quad
    G_{ab} = \frac1{HW} \sum_{p} A_{ap} B_{bp} \quad [C_A \times C_B]$$

    If the two layers of a side differ in size, both are average-pooled to the smaller height and
    width. The mean over entries is the scale of the CIFAR-100 benchmark, and its weight (50)
    applies as it is to one pair of layers.

    Args:
        student: Two maps, `[samples, channels, height, width]` each.
        teacher: Two maps with the student's numbers of channels; their sizes may differ. No
            gradient reaches them.

    Returns:
        A scalar, at least 0; float32 for half-precision features; 0 for no samples.

    Raises:
        InputError: Not two layers per side, features that are not maps, integer dtypes, or
            different numbers of samples or channels.

    Example:
        >>> import torch
        >>> ones, small = torch.ones(2, 3, 4, 4), torch.ones(2, 5, 2, 2)
        >>> flow([ones, small], [2 * ones, small])
        tensor(1.)

    Source: Yim et al. 2017 (FSP).
    """
    ours, theirs = _layers(student, "flow.student"), _layers(teacher, "flow.teacher")
    for layer, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine.shape[:2] != other.shape[:2]:
            raise InputError(
                Problem(
                    f"flow.teacher.{layer}",
                    f"student {tuple(mine.shape[:2])}, teacher {tuple(other.shape[:2])}",
                    "as many samples and channels as the student has",
                    "A connector joins features of different numbers of channels.",
                )
            )
    if not len(ours[0]):
        return ours[0].sum() + ours[1].sum()
    return F.mse_loss(_between_layers(*ours), _between_layers(*(maps.detach() for maps in theirs)))


def _layers(maps: Any, where: str) -> list[Tensor]:
    if isinstance(maps, Tensor) or len(maps) != 2:
        given = "one tensor" if isinstance(maps, Tensor) else f"{len(maps)} layers"
        fix = "Name an earlier and a later one."
        raise InputError(Problem(where, given, "two layers", fix))
    layers = [_maps(layer, f"{where}.{place}") for place, layer in enumerate(maps)]
    check_same_samples(*layers, where=where)
    return layers


def _between_layers(early: Tensor, late: Tensor) -> Tensor:
    early, late = (maps.flatten(2) for maps in _to_smaller(early, late))
    with without_autocast(early):
        return early @ late.mT / early.shape[-1]


def _to_smaller(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool maps to the smaller height and the smaller width of the two."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    small, also_small = (
        maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)
        for maps in (one, other)
    )
    return small, also_small


def _maps(features: Tensor, where: str) -> Tensor:
    check_floating(features, where=where)
    if features.ndim != 4 or 0 in features.shape[1:]:
        allowed = "a tensor [samples, channels, height, width]"
        raise InputError(Problem(where, tuple(features.shape), allowed))
    return precise(features)
