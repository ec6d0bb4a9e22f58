"""The connector of `review_kd` (ReviewKD): attention-based fusion of the student's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.connectors.features import Normalize
from limbeck.connectors.joints import ConnectorOutput, PairConnector
from limbeck.errors import InputError, Problem

_WIDEST = 512


class Fusion(PairConnector):
    """Attention-based fusion (ABF) of each student layer with all deeper ones.

    From the deepest layer to the shallowest, the student's map and the fused deeper map are mixed
    by two attention maps with values in [0, 1]; the result is projected to the teacher's size and
    channels for the loss, and passed to the next layer. Vectors are maps of 1×1.

    Args:
        ours: The numbers of the student's channels, from the shallowest layer to the deepest.
        theirs: The numbers of the teacher's channels, in the same order.

    Attributes:
        levels: One module per layer, in the same order.
    """

    def __init__(self, ours: Sequence[int], theirs: Sequence[int]) -> None:
        super().__init__()
        middle = min(_WIDEST, ours[-1])
        deepest = len(ours) - 1
        self.levels = nn.ModuleList(
            Level(ours[place], middle, theirs[place], fuse=place < deepest)
            for place in range(len(ours))
        )

    def forward(self, student: Any, teacher: Any, inputs: Mapping[str, Tensor]) -> ConnectorOutput:
        """Return the fused features in the teacher's shapes, and the teacher's unchanged."""
        ours, theirs = _listed(student), _listed(teacher)
        fused: list[Tensor] = []
        deeper: Tensor | None = None
        for place in range(len(ours) - 1, -1, -1):
            shape = theirs[place].shape
            size = (1, 1) if len(shape) == 2 else (shape[2], shape[3])
            features, deeper = self.levels[place](_as_map(ours[place]), deeper, size)
            fused.append(features.flatten(1) if len(shape) == 2 else features)
        fused.reverse()
        if isinstance(student, Tensor):
            return ConnectorOutput(fused[0], theirs[0])
        return ConnectorOutput(tuple(fused), tuple(theirs))


class Level(nn.Module):
    """The fusion of one layer: mix with the deeper one, then project to the teacher's shape.

    Args:
        ours: The number of the student's channels.
        middle: The number of channels passed to the next layer.
        theirs: The number of the teacher's channels.
        fuse: Whether there is a deeper layer.
    """

    def __init__(self, ours: int, middle: int, theirs: int, *, fuse: bool) -> None:
        super().__init__()
        self.enter = _convolution(ours, middle, size=1)
        self.attend = nn.Conv2d(2 * middle, 2, kernel_size=1) if fuse else None
        self.leave = _convolution(middle, theirs, size=3)

    def forward(
        self, student: Tensor, deeper: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the features for the loss and for the next layer, both of the teacher's size."""
        features = self.enter(student.to(next(self.parameters()).dtype))
        if self.attend is not None and deeper is not None:
            deeper = _resized(deeper, (features.shape[2], features.shape[3]))
            attention = self.attend(torch.cat([features, deeper], dim=1)).sigmoid()
            features = features * attention[:, :1] + deeper * attention[:, 1:]
        features = _resized(features, size)
        return self.leave(features), features


def _convolution(ours: int, theirs: int, *, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(ours, theirs, kernel_size=size, padding=size // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)  # a = 1: no ReLU follows
    return nn.Sequential(convolution, Normalize(theirs, maps=True))


def _resized(features: Tensor, size: tuple[int, int]) -> Tensor:
    if features.shape[2:] == size:
        return features
    return F.interpolate(features, size=size, mode="nearest")


def _listed(features: Any) -> list[Tensor]:
    return [features] if isinstance(features, Tensor) else list(features)


def _as_map(features: Tensor) -> Tensor:
    return features[:, :, None, None] if features.ndim == 2 else features


def build(student: Any, teacher: Any, *, samples: int | None = None) -> PairConnector:
    """Build the connector from example features, with weights from torch's generator.

    Args:
        student: The student's features from the shallowest layer to the deepest, each
            `[n, channels, height, width]` or `[n, d]`; or one of them.
        teacher: The same number of the teacher's features.
        samples: The number of training samples; unused.

    Raises:
        InputError: The features cannot be connected; the message has the reason.

    Example:
        >>> student = [torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4)]
        >>> teacher = [torch.zeros(2, 32, 8, 8), torch.zeros(2, 64)]
        >>> joined = build(student, teacher)(student, teacher, {})
        >>> [tuple(features.shape) for features in joined.student]
        [(2, 32, 8, 8), (2, 64)]

    Source: Chen et al. 2021 (ReviewKD, attention-based fusion).
    """
    ours, theirs = _listed(student), _listed(teacher)
    _check(ours, theirs)
    parts = Fusion([f.shape[1] for f in ours], [f.shape[1] for f in theirs])
    return parts.to(ours[0].device)


def _check(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    both = [*ours, *theirs]
    reason = ""
    if not ours or len(ours) != len(theirs):
        reason = "name as many layers of the student as of the teacher, and at least one"
    elif not all(feature.is_floating_point() for feature in both):
        reason = "features must be floating-point numbers"
    elif any(f.ndim not in (2, 4) or 0 in f.shape for f in both):
        reason = "only [n, channels, height, width] and [n, d] can be fused, and nothing empty"
    elif len({len(feature) for feature in both}) > 1:
        reason = "all must come from one batch"
    if reason:
        sides = ([tuple(f.shape) for f in side] for side in (ours, theirs))
        given = "student {}, teacher {}".format(*sides)
        raise InputError(Problem("fusion", given, "maps or vectors, layer by layer", reason))
