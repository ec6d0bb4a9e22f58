"""What an export needs to know of a task: which tensors go in, and how the model is run on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn


class Runnable(Protocol):
    """The part of a task that an exported file holds; every `limbeck.tasks.task.Task` is one."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the batch's tensors that go into the model, in order."""
        ...

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the model on a batch and name what comes out."""
        ...
