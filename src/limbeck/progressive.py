"""Modules that change with the training progress, such as a growing pruning mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Progressive(Protocol):
    """A module that is updated with the training progress before each step."""

    def advance(self, progress: float) -> None:
        """Set the training progress, from 0 at the first step to 1 at the last."""
        ...


@runtime_checkable
class Penalizing(Protocol):
    """A module that adds a penalty to the loss of every step, such as its density."""

    def penalty(self) -> Tensor:
        """Return the penalty: a scalar with a gradient."""
        ...
