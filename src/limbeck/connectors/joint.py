"""What learned parts that see both sides give to a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Joined(NamedTuple):
    """What a loss is given.

    Attributes:
        student: A tensor, or a tuple of tensors.
        teacher: The same of the teacher.
        arguments: Further arguments of the loss, such as a variance that is learned.
        own_loss: A scalar that the parts themselves learn from, such as a reconstruction.
    """

    student: Any
    teacher: Any
    arguments: Mapping[str, Any] = _NOTHING
    own_loss: Tensor | None = None


class Joint(nn.Module, ABC):
    """Learned parts that see both sides: they train with the student and never reach its file."""

    @abstractmethod
    def forward(self, student: Any, teacher: Any, inputs: Mapping[str, Tensor]) -> Joined:
        """Join the two sides.

        Args:
            student: The student's feature, or a sequence of them.
            teacher: The same of the teacher.
            inputs: Of `labels`, `index` and `mask`, what the batch has.
        """
