"""Connectors from a student's feature to a teacher's channels, size, tokens and lengths."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.connectors.layouts import Layout, Size, pair
from limbeck.core.tensors import without_autocast
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
        ours: The layout of the student's feature.
        theirs: The layout of the teacher's.
        size: Whether to resize to the teacher's size, too.
    """

    def __init__(self, ours: Layout, theirs: Layout, *, size: bool = True) -> None:
        super().__init__()
        self.size = size
        self.ours = ours
        self.theirs = theirs
        widths = (ours.channels, theirs.channels)
        maps = ours.kind == "map" and not ours.channels_last
        self.project = nn.Identity() if widths[0] == widths[1] else mix(*widths, maps=maps)
        self.leading: nn.Linear | None = None
        if theirs.lead > ours.lead:
            self.leading = nn.Linear(ours.channels, theirs.lead * theirs.channels)

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
        ours = self.ours.of(features)
        theirs = self._target(ours, like)
        with without_autocast(features):
            features = features.to(torch.promote_types(features.dtype, torch.float32))
            places = ours.places(features)
            leading = self._lead(features, places) if theirs.lead else None
            return theirs.feature(leading, self._resize(places, theirs.grid))

    def _target(self, ours: Layout, like: Tensor | None) -> Layout:
        if like is not None and self.size:
            return self.theirs.of(like)
        leave = not self.size or self.ours.grid == self.theirs.grid
        return replace(self.theirs, grid=ours.grid) if leave else self.theirs

    def _resize(self, places: Tensor, size: Size) -> Tensor:
        height, width = places.shape[2:]
        smaller = (min(height, size[0]), min(width, size[1]))
        if smaller != (height, width):
            places = F.adaptive_avg_pool2d(places, smaller)
        # Channels are mapped where there are fewest positions; pooling and interpolation commute
        # with it.
        places = self._mix(places)
        if smaller == size:
            return places
        return F.interpolate(places, size=size, mode="bilinear", align_corners=False)

    def _mix(self, places: Tensor) -> Tensor:
        if isinstance(self.project, nn.Linear):
            return self.project(places.movedim(1, -1)).movedim(-1, 1)
        mixed: Tensor = self.project(places)
        return mixed

    def _lead(self, features: Tensor, places: Tensor) -> Tensor:
        """Return the tokens before the teacher's grid."""
        if self.leading is None:
            leading: Tensor = self.project(features[:, : self.theirs.lead])
            return leading
        summary = features[:, 0] if self.ours.lead else places.mean((2, 3))
        made: Tensor = self.leading(summary).unflatten(1, (self.theirs.lead, -1))
        return made

    def extra_repr(self) -> str:
        """Return both layouts, for the module's repr."""
        sides = (self.ours, self.theirs)
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
        >>> join = connect(torch.zeros(2, 8, 4, 4), torch.zeros(2, 64, 8, 8))
        >>> join(torch.zeros(5, 8, 4, 4)).shape
        torch.Size([5, 64, 8, 8])
        >>> join = connect(torch.zeros(2, 197, 192), torch.zeros(2, 512, 7, 7))
        >>> join(torch.zeros(5, 197, 192)).shape
        torch.Size([5, 512, 7, 7])
        >>> connect(torch.zeros(2, 8), torch.zeros(2, 64, 8, 8))
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: connector: ... a vector has no places, so that nothing could be
        learned about the teacher's; tap the student before its pooling

    Source: Romero et al. 2015 (regressors).
    """
    layouts = _read(student, teacher)
    if isinstance(layouts, str):
        given = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        raise InputError(Problem("connector", given, "features that can be joined", layouts))
    ours, theirs = layouts
    if student.shape == teacher.shape or (not size and ours == replace(theirs, grid=ours.grid)):
        return nn.Identity()
    connector = Connector(ours, theirs, size=size)
    return connector.to(student.device, torch.promote_types(student.dtype, torch.float32))


def _read(student: Tensor, teacher: Tensor) -> tuple[Layout, Layout] | str:
    if not (student.is_floating_point() and teacher.is_floating_point()):
        return "features must be floating-point numbers"
    return pair(student, teacher)


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
