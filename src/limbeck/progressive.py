"""Parts of a model that change with the progress of its training, such as a growing mask."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progressive(Protocol):
    """A module that wants to know how far the training is, before each step."""

    def advance(self, progress: float) -> None:
        """Hear how far the training is, from 0 at its first step to 1 at its last."""
        ...
