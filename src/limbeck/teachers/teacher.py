"""The teacher protocol: a frozen source of soft targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.targets import DenseTargets, Targets
from limbeck.tasks import Batch


@dataclass(frozen=True)
class Answer:
    """The output of a teacher for a batch.

    Attributes:
        targets: The soft targets, one row per element.
        taps: The outputs of tapped modules, by path, `[samples, ...]`.
    """

    targets: Targets
    taps: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """Return all logits, `[elements, classes]`.

        Raises:
            InputError: The targets are not dense logits.
        """
        if isinstance(self.targets, DenseTargets):
            return self.targets.logits
        given = type(self.targets).__name__
        raise InputError(Problem("answer", given, "DenseTargets: all of the teacher's logits"))


class Teacher(Protocol):
    """A source of soft targets: in evaluation mode, never trained, not saved with the student."""

    @property
    def fingerprint(self) -> str:
        """Return a hash that is equal for equal parameters and buffers, for any object."""
        ...

    def answer(self, batch: Batch) -> Answer:
        """Compute the outputs for a batch, without gradient."""
        ...
