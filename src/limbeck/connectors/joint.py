"""The interface of connectors for both student and teacher features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Joined(NamedTuple):
    """The output of a connector: the arguments of a loss.

    Attributes:
        student: A tensor, or a tuple of tensors.
        teacher: The same for the teacher.
        arguments: Further arguments of the loss, such as a learned variance.
        own_loss: A scalar loss of the connector itself, such as a reconstruction error.
    """

    student: Any
    teacher: Any
    arguments: Mapping[str, Any] = _NOTHING
    own_loss: Tensor | None = None


class Joint(nn.Module, ABC):
    """A connector for both sides, trained with the student and not saved in its file."""

    @abstractmethod
    def forward(self, student: Any, teacher: Any, inputs: Mapping[str, Tensor]) -> Joined:
        """Apply the connector to both sides.

        Args:
            student: The student's feature, or a sequence of them.
            teacher: The same for the teacher.
            inputs: The batch's `labels`, `index` and `mask`, if present.
        """
