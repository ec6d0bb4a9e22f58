"""Parts of a model that change with the progress of its training, such as a growing mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Progressive(Protocol):
    """A module that wants to know how far the training is, before each step."""

    def advance(self, progress: float) -> None:
        """Hear how far the training is, from 0 at its first step to 1 at its last."""
        ...


@runtime_checkable
class Penalizing(Protocol):
    """A module that adds something of its own to the loss of every step, such as its density."""

    def penalty(self) -> Tensor:
        """Give what it adds: a scalar with a gradient."""
        ...
