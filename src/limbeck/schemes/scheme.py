"""The scheme protocol: the interface between one training step and the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from limbeck.objective import Losses, TermGradient
from limbeck.tasks import Batch


@dataclass(frozen=True)
class Phase:
    """A part of a training step, with an optimiser of its own.

    Attributes:
        parameters: The parameters that its optimiser updates.
        steps: The number of its updates per training step, all on the same micro-batches.
    """

    parameters: tuple[nn.Parameter, ...]
    steps: int = 1


class Scheme(Protocol):
    """The computation of one training step.

    A training step runs the phases in order. Each one computes the losses of all micro-batches,
    updates its own parameters, and leaves no gradient to the next.

    Two methods are optional: `batches(epoch, size)` of a scheme that draws its own batches
    (`limbeck.training.stream.GeneratesBatches`), and `begin_update(phase, number)`, called before
    each update of a phase with its number in the step, from 0.
    """

    @property
    def students(self) -> Mapping[str, nn.Module]:
        """Return the models that are trained; the first one is validated, and ships.

        Each is the attribute of the scheme of that name, which `torch.compile` replaces.
        """
        ...

    @property
    def phases(self) -> Mapping[str, Phase]:
        """Return the phases of a step by name, in order."""
        ...

    def modules_to_save(self) -> Mapping[str, nn.Module]:
        """Return every module that a checkpoint includes, by name; never a teacher."""
        ...

    def total_weights(self, batch: Batch) -> Mapping[str, Tensor]:
        """Sum the weights of a micro-batch's elements by output, before any model has run."""
        ...

    def begin_epoch(self, epoch: int) -> None:
        """Initialise an epoch; called again, with its number, if a training resumes within it."""
        ...

    def step(
        self,
        batch: Batch,
        progress: float,
        total_weights: Mapping[str, Tensor] | None = None,
        phase: str = "",
    ) -> Losses:
        """Run the models on a micro-batch and compute its part of the step's losses.

        Args:
            batch: The micro-batch.
            progress: The finished share of the training, in [0, 1].
            total_weights: The sums of the element weights of the whole optimiser step, over all
                micro-batches and processes, by output: the divisors of the means. None if the
                micro-batch is the whole step.
            phase: The name of the phase; the first one by default.
        """
        ...

    def after_step(self, step: int) -> None:
        """Update what follows the weights, after training step `step`, counted from 1."""
        ...

    def check_terms(self, batch: Batch) -> Mapping[str, TermGradient]:
        """Check on one batch, before training, that every term has a gradient for every student.

        Raises:
            InputError: A term fails or moves nothing; all such terms at once.
        """
        ...
