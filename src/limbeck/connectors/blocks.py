"""Layers of connectors, for vectors, sequences and maps.

Vectors `[n, d]` and sequences `[n, tokens, d]` have channels last, maps `[n, channels, height,
width]` second.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError, Problem

_KINDS = "[n, d], [n, tokens, d] or [n, channels, height, width]"


def channels(feature: Tensor) -> int:
    """Return the number of channels of a feature.

    Example:
        >>> import torch
        >>> channels(torch.zeros(2, 8, 4, 4)), channels(torch.zeros(2, 5, 16))
        (8, 16)
    """
    return feature.shape[1] if feature.ndim == 4 else feature.shape[-1]


def mix(
    ours: int, theirs: int, *, maps: bool, size: int = 1, bias: bool = True, back: bool = False
) -> nn.Module:
    """Build a layer that maps channels: a convolution that keeps the map's size, or a linear layer.

    Args:
        ours: The number of input channels.
        theirs: The number of output channels.
        maps: Whether features are maps.
        size: The kernel size, an odd number.
        bias: Whether to add a bias per channel.
        back: Whether the convolution is transposed.
    """
    if not maps:
        return nn.Linear(ours, theirs, bias=bias)
    kind = nn.ConvTranspose2d if back else nn.Conv2d
    return kind(ours, theirs, kernel_size=size, padding=size // 2, bias=bias)


def one_size(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps to the size of the smaller, per axis.

    Example:
        >>> import torch
        >>> [f.shape[2:] for f in one_size(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 4, 4))]
        [torch.Size([4, 4]), torch.Size([4, 4])]
    """
    if ours.ndim != 4 or ours.shape[2:] == theirs.shape[2:]:
        return ours, theirs
    height, width = (min(pair) for pair in zip(ours.shape[2:], theirs.shape[2:], strict=True))
    size = (height, width)
    return F.adaptive_avg_pool2d(ours, size), F.adaptive_avg_pool2d(theirs, size)


class Normalize(nn.Module):
    """Batch normalisation that also accepts one value per channel.

    One value has no variance; it is normalised by the running statistics. The last batch of an
    epoch may be a single image, and deep maps have a size of 1×1.
    """

    def __init__(self, count: int, *, maps: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(count) if maps else nn.BatchNorm1d(count)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise a feature."""
        if features.ndim == 3:
            return self._normalize(features.transpose(1, 2)).transpose(1, 2)
        return self._normalize(features)

    def _normalize(self, features: Tensor) -> Tensor:
        norm = self.norm
        alone = features.numel() <= features.shape[1]
        # The synchronised layer for several processes counts values over all of them.
        if not (norm.training and alone and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)):
            return norm(features)
        mean, variance = norm.running_mean, norm.running_var
        return F.batch_norm(features, mean, variance, norm.weight, norm.bias, eps=norm.eps)


def check_pair(student: Tensor, teacher: Tensor, *, where: str) -> None:
    """Raise an error if a connector cannot be built for the example features.

    Raises:
        InputError: Integer features, unsupported or different numbers of dimensions, different
            batch sizes, or sequences of different lengths.
    """
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    reason = ""
    if not (student.is_floating_point() and teacher.is_floating_point()):
        reason = "features must be floating-point numbers"
    elif student.ndim != teacher.ndim:
        reason = "a map, a sequence and a vector hold different things; tap layers of one kind"
    elif student.ndim not in (2, 3, 4) or 0 in (*ours, *theirs):
        reason = f"only {_KINDS} can be joined, and nothing that is empty"
    elif ours[0] != theirs[0]:
        reason = "both must come from one batch"
    elif student.ndim == 3 and ours[1] != theirs[1]:
        reason = "the sequences have different numbers of tokens"
    if reason:
        given = f"student {ours}, teacher {theirs}"
        raise InputError(Problem(where, given, "features of one kind", reason))
