"""The scheme protocol: the interface between one training step and the training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import Tensor, nn

from limbeck.objective import Losses
from limbeck.tasks import Batch


class Scheme(Protocol):
    """The computation of one training step.

    Attributes:
        student: The model that is trained and validated.
    """

    student: nn.Module

    def trainable(self) -> Iterable[nn.Parameter]:
        """Return every parameter that the optimiser updates."""
        ...

    def modules_to_save(self) -> Mapping[str, nn.Module]:
        """Return every module that a checkpoint includes, by name; never a teacher."""
        ...

    def total_weights(self, batch: Batch) -> Mapping[str, Tensor]:
        """Sum the weights of a micro-batch's elements by output, before any model has run."""
        ...

    def step(
        self, batch: Batch, progress: float, total_weights: Mapping[str, Tensor] | None = None
    ) -> Losses:
        """Run the models on a micro-batch and compute its part of the step's losses.

        Args:
            batch: The micro-batch.
            progress: The finished share of the training, in [0, 1].
            total_weights: The sums of the element weights of the whole optimiser step, over all
                micro-batches and processes, by output: the divisors of the means. None if the
                micro-batch is the whole step.
        """
        ...
