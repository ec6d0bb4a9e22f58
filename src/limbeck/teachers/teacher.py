"""The contract of a teacher: it answers, and nothing of it ever changes."""

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
    """What a teacher says to a batch.

    Attributes:
        targets: Its soft answer, one row a unit.
        taps: What its tapped modules put out, by path, `[samples, ...]`.
    """

    targets: Targets
    taps: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """All of the logits, `[units, classes]`.

        Raises:
            InputError: The answer is of another form.
        """
        if isinstance(self.targets, DenseTargets):
            return self.targets.logits
        given = type(self.targets).__name__
        raise InputError(Problem("answer", given, "DenseTargets: all of the teacher's logits"))


class Teacher(Protocol):
    """Who answers. Always in evaluation mode, never trained, never saved with the student."""

    @property
    def fingerprint(self) -> str:
        """Name what answers: equal for equal parameters and buffers, whatever object holds them."""
        ...

    def answer(self, batch: Batch) -> Answer:
        """Answer a batch, without gradient."""
        ...
