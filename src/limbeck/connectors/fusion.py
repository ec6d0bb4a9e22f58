"""The connector of `review_kd` (ReviewKD): attention-based fusion of the student's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.connectors.base import ConnectorOutput, PairConnector
from limbeck.connectors.features import Normalize
from limbeck.core.tensors import Features
from limbeck.errors import InputError, Problem

_MAXIMUM_CHANNELS = 512


class Fusion(PairConnector):
    """Attention-based fusion (ABF) of each student layer with all deeper ones.

    From the deepest layer to the shallowest, the student's map and the fused deeper map are mixed
    by two attention maps with values in [0, 1]; the result is projected to the teacher's size and
    channels for the loss, and passed to the next layer. Vectors are maps of 1×1.

    Attributes:
        levels: One module per layer, in the same order.
    """

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        super().__init__()
        middle = min(_MAXIMUM_CHANNELS, student_channels[-1])
        deepest = len(student_channels) - 1
        pairs = enumerate(zip(student_channels, teacher_channels, strict=True))
        self.levels = nn.ModuleList(
            Level(student, middle, teacher, fuse=layer < deepest)
            for layer, (student, teacher) in pairs
        )

    def forward(
        self, student: Features, teacher: Features, inputs: Mapping[str, Tensor]
    ) -> ConnectorOutput:
        """Return the fused features in the teacher's shapes, and the teacher's unchanged."""
        students, teachers = _as_list(student), _as_list(teacher)
        fused: list[Tensor] = []
        deeper: Tensor | None = None
        for layer in range(len(students) - 1, -1, -1):
            shape, maps = teachers[layer].shape, students[layer]
            size = (1, 1) if len(shape) == 2 else (shape[2], shape[3])
            maps = maps[:, :, None, None] if maps.ndim == 2 else maps
            features, deeper = self.levels[layer](maps, deeper, size)
            fused.append(features.flatten(1) if len(shape) == 2 else features)
        fused.reverse()
        if isinstance(student, Tensor):
            return ConnectorOutput(fused[0], teachers[0])
        return ConnectorOutput(tuple(fused), tuple(teachers))


class Level(nn.Module):
    """The fusion of one layer: mix with the deeper one, then project to the teacher's shape."""

    def __init__(
        self, student_channels: int, middle: int, teacher_channels: int, *, fuse: bool
    ) -> None:
        super().__init__()
        self.enter = _convolution(student_channels, middle, size=1)
        self.attend = nn.Conv2d(2 * middle, 2, kernel_size=1) if fuse else None
        self.leave = _convolution(middle, teacher_channels, size=3)

    def forward(
        self, student: Tensor, deeper: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the features for the loss and for the next layer, both of the teacher's size."""
        features = self.enter(student.to(next(self.parameters()).dtype))
        if self.attend is not None and deeper is not None:
            deeper = _resize(deeper, (features.shape[2], features.shape[3]))
            attention = self.attend(torch.cat([features, deeper], dim=1)).sigmoid()
            features = features * attention[:, :1] + deeper * attention[:, 1:]
        features = _resize(features, size)
        return self.leave(features), features


def _convolution(inputs: int, outputs: int, *, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=size, padding=size // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)  # a = 1: no ReLU follows
    return nn.Sequential(convolution, Normalize(outputs, maps=True))


def _resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    if features.shape[2:] == size:
        return features
    return F.interpolate(features, size=size, mode="nearest")


def _as_list(features: Features) -> list[Tensor]:
    return [features] if isinstance(features, Tensor) else list(features)


def build(student: Features, teacher: Features) -> PairConnector:
    """Build the connector from example features.

    Each side is one feature, `[n, channels, height, width]` or `[n, d]`, or a sequence of them from
    the shallowest layer to the deepest.

    Raises:
        InputError: The features cannot be connected; the message has the reason.

    Example:
        >>> student = [torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4)]
        >>> teacher = [torch.zeros(2, 32, 8, 8), torch.zeros(2, 64)]
        >>> output = build(student, teacher)(student, teacher, {})
        >>> [tuple(features.shape) for features in output.student]
        [(2, 32, 8, 8), (2, 64)]

    Source: Chen et al. 2021 (ReviewKD, attention-based fusion).
    """
    students, teachers = _as_list(student), _as_list(teacher)
    both = [*students, *teachers]
    reason = ""
    if not students or len(students) != len(teachers):
        reason = "select as many layers of the student as of the teacher, and at least one"
    elif not all(feature.is_floating_point() for feature in both):
        reason = "features must be floating-point numbers"
    elif any(f.ndim not in (2, 4) or 0 in f.shape for f in both):
        reason = (
            "only [n, channels, height, width] and [n, d] can be fused, without empty dimensions"
        )
    elif len({len(feature) for feature in both}) > 1:
        reason = "all must come from one batch"
    if reason:
        shapes = ([tuple(f.shape) for f in side] for side in (students, teachers))
        given = "student {}, teacher {}".format(*shapes)
        raise InputError(Problem("fusion", given, "maps or vectors, layer by layer", reason))
    connector = Fusion([f.shape[1] for f in students], [f.shape[1] for f in teachers])
    return connector.to(students[0].device)
