"""What joins a student's feature to a teacher's: built from one probe, trained with the student."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError, Problem


class Connector(nn.Module):
    """Bring features to another number of channels and, for maps, to another size.

    Maps `[n, channels, height, width]` are averaged down or interpolated up, and their channels
    mixed by a 1×1 convolution; the channels of `[n, d]` and `[n, tokens, d]` are mixed by a linear
    layer.

    Args:
        project: The layer that mixes channels, or the identity.
        size: The height and width to reach; None where there are none or they are right.
    """

    def __init__(self, project: nn.Module, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.project = project
        self.size = size

    def forward(self, features: Tensor) -> Tensor:
        """Bring features to the teacher's shape; half precision is computed in float32."""
        if features.dtype in (torch.float16, torch.bfloat16):
            features = features.float()
        if self.size is None:
            return self.project(features)
        height, width = features.shape[-2:]
        smaller = (min(height, self.size[0]), min(width, self.size[1]))
        if smaller != (height, width):
            features = F.adaptive_avg_pool2d(features, smaller)
        # Channels are mixed where the map is smallest; averaging and interpolating commute with it.
        features = self.project(features)
        if smaller == self.size:
            return features
        return F.interpolate(features, size=self.size, mode="bilinear", align_corners=False)

    def extra_repr(self) -> str:
        """Show the size in a print of the module."""
        return f"size={self.size}"


def connect(student: Tensor, teacher: Tensor) -> nn.Module:
    """Build what brings a student's feature to the shape of a teacher's.

    Weights are drawn from torch's global generator, so that a seed decides them; they lie on the
    student's device.

    Args:
        student: The student's feature for one probe batch: `[n, c, h, w]`, `[n, tokens, d]` or
            `[n, d]`.
        teacher: The teacher's feature for the same batch.

    Returns:
        The identity if the shapes are equal, a `Connector` otherwise.

    Raises:
        InputError: The two cannot be joined; the message says why.

    Example:
        >>> join = connect(torch.zeros(2, 8, 4, 4), torch.zeros(2, 64, 8, 8))
        >>> join(torch.zeros(5, 8, 4, 4)).shape
        torch.Size([5, 64, 8, 8])

    Source: Romero et al. 2015 (regressors); ledger A24.
    """
    _check(student, teacher)
    if student.shape[1:] == teacher.shape[1:]:
        return nn.Identity()
    if student.ndim == 4:
        size = (teacher.shape[2], teacher.shape[3])
        project = _projection(student.shape[1], teacher.shape[1], maps=True)
        joined = Connector(project, None if size == tuple(student.shape[2:]) else size)
    else:
        joined = Connector(_projection(student.shape[-1], teacher.shape[-1], maps=False), None)
    return joined.to(student.device)


def _projection(ours: int, theirs: int, *, maps: bool) -> nn.Module:
    if ours == theirs:
        return nn.Identity()
    return nn.Conv2d(ours, theirs, kernel_size=1) if maps else nn.Linear(ours, theirs)


def _check(student: Tensor, teacher: Tensor) -> None:
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    reason = ""
    if not (student.is_floating_point() and teacher.is_floating_point()):
        reason = "features must be floating-point numbers"
    elif student.ndim != teacher.ndim:
        reason = "a map, a sequence and a vector hold different things; tap layers of one kind"
    elif student.ndim not in (2, 3, 4):
        reason = "only [n, d], [n, tokens, d] and [n, channels, height, width] can be joined"
    elif ours[0] != theirs[0]:
        reason = "both must come from one batch"
    elif student.ndim == 3 and ours[1] != theirs[1]:
        reason = "the sequences have different numbers of tokens"
    if reason:
        raise InputError(
            Problem(
                "connector", f"student {ours}, teacher {theirs}", "features of one kind", reason
            )
        )
