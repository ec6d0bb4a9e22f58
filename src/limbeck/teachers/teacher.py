"""The teacher protocol: a frozen source of soft targets."""

from __future__ import annotations

from typing import Protocol

from limbeck.targets import Answer
from limbeck.tasks import Batch


class Teacher(Protocol):
    """A source of soft targets: in evaluation mode, never trained, not saved with the student."""

    @property
    def fingerprint(self) -> str:
        """Return a hash that is equal for equal parameters and buffers, for any object."""
        ...

    def answer(self, batch: Batch) -> Answer:
        """Compute the outputs for a batch, without gradient."""
        ...
