"""The connector of `crd`: embeddings of student and teacher, and a memory bank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.connectors.joint import Joined, Joint
from limbeck.connectors.layouts import pair
from limbeck.connectors.memory import MemoryBank
from limbeck.errors import InputError, Problem
from limbeck.vectors import unit_length

_HALF = (torch.float16, torch.bfloat16)


class Embedding(nn.Module):
    """Average pooling over positions, and a linear projection to a unit vector.

    Args:
        width: The number of channels of the features.
        dimension: The length of the embedding.
        places: The dimensions to average over.
    """

    def __init__(self, width: int, dimension: int, *, places: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.places = places
        self.linear = nn.Linear(width, dimension)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return embeddings of length one, `[samples, dimension]`; float32 for half precision.

        Args:
            features: Features of the shape that the layer was built for.
            mask: `[samples, tokens]`, true for tokens that are not padding; used for tokens only.
        """
        features = features.to(self.linear.weight.dtype)
        if self.places == (1,) and mask is not None and mask.shape == features.shape[:2]:
            real = mask.to(features.dtype).unsqueeze(-1)
            features = (features * real).sum(1) / real.sum(1).clamp_min(1)
        elif self.places:
            features = features.mean(self.places)
        embedded = self.linear(features)
        return unit_length(embedded.float() if embedded.dtype in _HALF else embedded)

    def extra_repr(self) -> str:
        """Return the pooled dimensions, for the module's repr."""
        return f"places={self.places}"


class Embeddings(Joint):
    """The embeddings of student and teacher for `crd`; both are trained.

    Args:
        student: The embedding of the student's features.
        teacher: The embedding of the teacher's features.
        bank: The memory bank of negatives; None to use the batch.
    """

    def __init__(
        self, student: Embedding, teacher: Embedding, *, bank: MemoryBank | None = None
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.bank = bank

    def forward(self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor]) -> Joined:
        """Return both embeddings, the teacher's also with gradient, and the bank's negatives.

        Raises:
            InputError: There is a bank, and the batch has no sample indices.
        """
        mask = inputs.get("mask")
        ours, theirs = self.student(student, mask), self.teacher(teacher.detach(), mask)
        held = {} if self.bank is None else self.bank(ours, theirs, inputs)
        return Joined(ours, theirs.detach(), {"trained_teacher": theirs, **held})


def build(
    student: Any,
    teacher: Any,
    *,
    samples: int | None = None,
    dimension: int = 128,
    negatives: int = 4096,
    momentum: float = 0.5,
) -> Joint:
    """Build the connector from example features, with weights from torch's generator.

    Args:
        student: The student's feature: `[n, channels, height, width]`, `[n, tokens, d]` or
            `[n, d]`; maps and tokens are averaged.
        teacher: The teacher's feature; its layout may differ.
        samples: The number of training samples; None uses negatives of the batch.
        dimension: The length of the embeddings.
        negatives: The number of negatives per sample from the memory bank (16384 in the paper); 0
            uses the batch.
        momentum: The momentum of the bank's running mean.

    Raises:
        InputError: Unsupported feature shapes, or a setting out of range.

    Example:
        >>> student, teacher = torch.zeros(2, 8, 4, 4), torch.zeros(2, 64)
        >>> joined = build(student, teacher)(student, teacher, {})
        >>> joined.student.shape, joined.teacher.shape, list(joined.arguments)
        (torch.Size([2, 128]), torch.Size([2, 128]), ['trained_teacher'])

    Source: Tian, Krishnan and Isola 2020.
    """
    if dimension < 1:
        raise InputError(Problem("dimension", dimension, "a whole number, at least 1", "Try 128."))
    ours = _embedding(student, teacher, dimension, "student")
    theirs = _embedding(teacher, student, dimension, "teacher")
    bank = None
    if samples is not None and negatives != 0:
        bank = MemoryBank(samples, dimension, negatives=negatives, momentum=momentum)
    return Embeddings(ours, theirs, bank=bank).to(student.device)


def _embedding(feature: Any, other: Any, dimension: int, side: str) -> Embedding:
    allowed = "[n, d], [n, tokens, d] or [n, channels, height, width] of floating-point numbers"
    if not (isinstance(feature, Tensor) and feature.is_floating_point() and feature.ndim in _AXES):
        given = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
        raise InputError(Problem(f"contrastive.{side}", given, allowed))
    if feature.ndim < 4:
        return Embedding(feature.shape[-1], dimension, places=_AXES[feature.ndim])
    # Compared with another map, a channels-last map is recognised more reliably.
    beside = other if other.ndim == 4 else feature.new_zeros(len(feature), 1)
    read = pair(feature, beside)
    if isinstance(read, str):
        raise InputError(Problem(f"contrastive.{side}", tuple(feature.shape), allowed, read))
    layout = read[0]
    return Embedding(layout.channels, dimension, places=(1, 2) if layout.channels_last else (2, 3))


_AXES: dict[int, tuple[int, ...]] = {2: (), 3: (1,), 4: (2, 3)}
