"""What `crd` learns: an embedding of either side, and a memory of the training set's."""

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
    """Average features over their places, and bring them to a direction by a linear layer.

    Args:
        width: How many channels features have.
        dimension: The length of the embedding.
        places: The axes to average over.
    """

    def __init__(self, width: int, dimension: int, *, places: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.places = places
        self.linear = nn.Linear(width, dimension)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Give embeddings of length one, `[samples, dimension]`; half precision in float32.

        Args:
            features: What the layer was built for.
            mask: `[samples, tokens]`, true where a token is real; of use only for tokens.
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
        """Show the axes in a print of the module."""
        return f"places={self.places}"


class Embeddings(Joint):
    """Embed both sides for `crd`; the teacher's embedding learns, too.

    Args:
        student: Embeds the student's features.
        teacher: Embeds the teacher's.
        bank: Where negatives come from; None for the batch.
    """

    def __init__(
        self, student: Embedding, teacher: Embedding, *, bank: MemoryBank | None = None
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.bank = bank

    def forward(self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor]) -> Joined:
        """Give both embeddings, the teacher's once more with its gradient, and what a bank holds.

        Raises:
            InputError: There is a bank, and the batch does not say which samples it holds.
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
    """Build the parts from one probe, with weights from torch's generator, on its device.

    Args:
        student: The student's feature: `[n, channels, height, width]`, `[n, tokens, d]` or
            `[n, d]`; maps and tokens are averaged.
        teacher: The teacher's feature; it may be of another kind.
        samples: How many samples there are to train on; None takes negatives from the batch.
        dimension: The length of the embeddings.
        negatives: How many a memory bank draws for each sample (16384 in the paper); 0 takes them
            from the batch.
        momentum: How much of the old the bank keeps when it sees a sample again.

    Raises:
        InputError: Features of no such kind, or a setting out of range.

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
    # Beside another map, one with its channels last is told apart more surely.
    beside = other if other.ndim == 4 else feature.new_zeros(len(feature), 1)
    read = pair(feature, beside)
    if isinstance(read, str):
        raise InputError(Problem(f"contrastive.{side}", tuple(feature.shape), allowed, read))
    layout = read[0]
    return Embedding(layout.channels, dimension, places=(1, 2) if layout.channels_last else (2, 3))


_AXES: dict[int, tuple[int, ...]] = {2: (), 3: (1,), 4: (2, 3)}
