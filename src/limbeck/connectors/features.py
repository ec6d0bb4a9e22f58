"""Connectors from a student's feature to a teacher's channels, size, tokens and lengths."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.connectors.layouts import Layout, Size, layout_pair
from limbeck.core.tensors import Features, without_autocast
from limbeck.errors import InputError, Problem


class Connector(nn.Module):
    """A learned map of features to another number of channels, another size and another layout.

    Maps, token grids and sequences (along their tokens) are average-pooled or interpolated.
    Channels are mapped by a 1×1 convolution or a linear layer. Tokens before the grid, such as a
    class token, are dropped if the teacher has none. If the student has too few, a linear layer
    computes them from its first one or, if it has none, from the mean over its positions.

    Parameters are float32 (float64 for float64 features); half precision is computed in float32,
    also under autocast.

    Args:
        student: The layout of the student's feature.
        teacher: The layout of the teacher's.
        size: Whether to resize to the teacher's size, too.
    """

    def __init__(self, student: Layout, teacher: Layout, *, size: bool = True) -> None:
        super().__init__()
        self.size = size
        self.student = student
        self.teacher = teacher
        widths = (student.channels, teacher.channels)
        maps = student.kind == "map" and not student.channels_last
        self.project = nn.Identity() if widths[0] == widths[1] else projection(*widths, maps=maps)
        self.leading: nn.Linear | None = None
        if teacher.prefix > student.prefix:
            self.leading = nn.Linear(student.channels, teacher.prefix * teacher.channels)

    def forward(self, features: Tensor, like: Tensor | None = None) -> Tensor:
        """Map features to the teacher's shape.

        Args:
            features: The student's features.
            like: The teacher's features for the same batch, if sizes or lengths may differ from the
                example's. Without it the example's sizes are used, or sizes are unchanged if they
                were equal.

        Raises:
            InputError: A feature's layout differs from the example's.
        """
        layout = self.student.of(features)
        target = self.teacher
        if like is not None and self.size:
            target = self.teacher.of(like)
        elif not self.size or self.student.grid == self.teacher.grid:
            target = replace(self.teacher, grid=layout.grid)
        with without_autocast(features):
            features = features.to(torch.promote_types(features.dtype, torch.float32))
            positions = layout.to_positions(features)
            prefix = self._prefix(features, positions) if target.prefix else None
            return target.from_positions(prefix, self._resize(positions, target.grid))

    def _resize(self, positions: Tensor, size: Size) -> Tensor:
        height, width = positions.shape[2:]
        smaller = (min(height, size[0]), min(width, size[1]))
        if smaller != (height, width):
            positions = F.adaptive_avg_pool2d(positions, smaller)
        # The projection commutes with pooling and interpolation: the smallest size is cheapest.
        if isinstance(self.project, nn.Linear):
            positions = self.project(positions.movedim(1, -1)).movedim(-1, 1)
        else:
            positions = self.project(positions)
        if smaller == size:
            return positions
        return F.interpolate(positions, size=size, mode="bilinear", align_corners=False)

    def _prefix(self, features: Tensor, positions: Tensor) -> Tensor:
        if self.leading is None:
            tokens: Tensor = self.project(features[:, : self.teacher.prefix])
            return tokens
        summary = features[:, 0] if self.student.prefix else positions.mean((2, 3))
        computed: Tensor = self.leading(summary).unflatten(1, (self.teacher.prefix, -1))
        return computed

    def extra_repr(self) -> str:
        """Return both layouts, for the module's repr."""
        sides = (self.student, self.teacher)
        return " to ".join(f"{side.kind} {side.grid[0]}×{side.grid[1]}" for side in sides)


def connect(student: Tensor, teacher: Tensor, *, size: bool = True) -> nn.Module:
    """Build a connector from a student's feature to the shape of a teacher's.

    Vectors are mapped to vectors, maps to maps, sequences to sequences. Image tokens are mapped to
    maps and back: they are a grid of the map's aspect ratio or a square, optionally after a class
    token (or a few more tokens, as in DeiT and DINOv2). Sequences of different lengths that are
    both square grids, from 3×3 on, are resized as images, others along their tokens. A map is
    mapped to a vector by its mean.

    Weights are drawn from torch's global generator, on the student's device.

    Args:
        student: The student's feature for an example batch: `[n, c, h, w]` (or `[n, h, w, c]`, if
            it is square), `[n, tokens, d]` or `[n, d]`.
        teacher: The teacher's feature for the same batch.
        size: Whether to resize maps and sequences to the teacher's size, too.

    Returns:
        The identity if shapes are equal, a `Connector` otherwise.

    Raises:
        InputError: The features cannot be connected; the message has the reason.

    Example:
        >>> connector = connect(torch.zeros(2, 197, 192), torch.zeros(2, 512, 7, 7))
        >>> connector(torch.zeros(5, 197, 192)).shape
        torch.Size([5, 512, 7, 7])
        >>> connect(torch.zeros(2, 8), torch.zeros(2, 64, 8, 8))
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: connector: ... a vector has no positions to match the teacher's;
        tap the student before its pooling

    Source: Romero et al. 2015 (regressors).
    """
    floating = student.is_floating_point() and teacher.is_floating_point()
    layouts = layout_pair(student, teacher) if floating else _NOT_FLOATING
    if isinstance(layouts, str):
        given = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        raise InputError(Problem("connector", given, "features that can be connected", layouts))
    own, other = layouts
    if student.shape == teacher.shape or (not size and own == replace(other, grid=own.grid)):
        return nn.Identity()
    connector = Connector(own, other, size=size)
    return connector.to(student.device, torch.promote_types(student.dtype, torch.float32))


_NOT_FLOATING = "features must be floating-point numbers"


def channels(feature: Tensor) -> int:
    """Return the number of channels of a feature.

    Example:
        >>> import torch
        >>> channels(torch.zeros(2, 8, 4, 4)), channels(torch.zeros(2, 5, 16))
        (8, 16)
    """
    return feature.shape[1] if feature.ndim == 4 else feature.shape[-1]


def projection(
    inputs: int,
    outputs: int,
    *,
    maps: bool,
    size: int = 1,
    bias: bool = True,
    transposed: bool = False,
) -> nn.Module:
    """Build a layer that maps channels: a linear layer, or a convolution that keeps the map's size.

    `size`, an odd number, is that of the convolution's kernel.
    """
    if not maps:
        return nn.Linear(inputs, outputs, bias=bias)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    return kind(inputs, outputs, kernel_size=size, padding=size // 2, bias=bias)


def pool_to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool two maps to the smaller height and the smaller width; return others unchanged.

    Example:
        >>> import torch
        >>> [f.shape[2:] for f in pool_to_smaller(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 4, 4))]
        [torch.Size([4, 4]), torch.Size([4, 4])]
    """
    if student.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    height, width = map(min, student.shape[2:], teacher.shape[2:])
    pool = nn.AdaptiveAvgPool2d((height, width))
    return pool(student), pool(teacher)


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
        single = features.numel() <= features.shape[1]
        # The synchronised layer for several processes counts values over all of them.
        if not (norm.training and single and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)):
            return norm(features)
        mean, variance = norm.running_mean, norm.running_var
        return F.batch_norm(features, mean, variance, norm.weight, norm.bias, eps=norm.eps)


def single_pair(student: Features, teacher: Features, *, where: str) -> tuple[Tensor, Tensor]:
    """Return the only feature of each side.

    Raises:
        InputError: There are several features on a side.
    """
    if isinstance(student, Tensor) and isinstance(teacher, Tensor):
        return student, teacher
    side = "teacher" if isinstance(student, Tensor) else "student"
    raise InputError(Problem(f"{where}.{side}", "several features", "one feature"))


def check_pair(student: Features, teacher: Features, *, where: str) -> tuple[Tensor, Tensor]:
    """Return the only feature of each side, checked to be fit for a connector.

    Raises:
        InputError: Several features, integer features, unsupported or different numbers of
            dimensions, different batch sizes, or sequences of different lengths.
    """
    student, teacher = single_pair(student, teacher, where=where)
    shape, other = tuple(student.shape), tuple(teacher.shape)
    reason = ""
    if not (student.is_floating_point() and teacher.is_floating_point()):
        reason = _NOT_FLOATING
    elif student.ndim != teacher.ndim:
        reason = "a map, a sequence and a vector differ; tap layers of one layout"
    elif student.ndim not in (2, 3, 4) or 0 in (*shape, *other):
        supported = "[n, d], [n, tokens, d] or [n, channels, height, width]"
        reason = f"only {supported} can be connected, without empty dimensions"
    elif shape[0] != other[0]:
        reason = "both must come from one batch"
    elif student.ndim == 3 and shape[1] != other[1]:
        reason = "the sequences have different numbers of tokens"
    if reason:
        given = f"student {shape}, teacher {other}"
        raise InputError(Problem(where, given, "features of one layout", reason))
    return student, teacher
