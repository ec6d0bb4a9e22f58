"""The contract of a scheme: what one training step is. The loop knows no more than this."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import Tensor, nn

from limbeck.objective import Losses
from limbeck.tasks import Batch


class Scheme(Protocol):
    """What one training step is.

    Attributes:
        student: The model that trains, and that validation looks at.
    """

    student: nn.Module

    def trainable(self) -> Iterable[nn.Parameter]:
        """Give every parameter that the optimiser moves."""
        ...

    def modules_to_save(self) -> Mapping[str, nn.Module]:
        """Name every module whose state a checkpoint must hold; a teacher is never among them."""
        ...

    def mass(self, batch: Batch) -> Tensor:
        """Say how much a micro-batch weighs: the sum of its units' weights; no model has run."""
        ...

    def step(self, batch: Batch, progress: float) -> Losses:
        """Run the models on a micro-batch; losses are means over its units.

        Args:
            batch: The micro-batch.
            progress: How much of the training lies behind, in [0, 1].
        """
        ...
