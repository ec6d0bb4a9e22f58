"""Interface between export and tasks: input names and the forward function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn


class Runnable(Protocol):
    """The part of a task that an export needs; every `limbeck.tasks.task.Task` has it."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the batch's input tensors, in order."""
        ...

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the model on a batch, and return its outputs by name."""
        ...
