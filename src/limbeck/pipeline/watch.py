"""Report the progress of a run: to a terminal, to a log, or not at all."""

from __future__ import annotations

from typing import Protocol

from limbeck.training import Silent, Ticker


class Watch(Protocol):
    """Reports the progress of a run."""

    def begin(self, part: str) -> None:
        """Report that a part of the run begins; what follows belongs to it."""
        ...

    def say(self, line: str) -> None:
        """Report one line of text."""
        ...

    def ticker(self, what: str) -> Ticker:
        """Return what reports the steps of one long piece of work."""
        ...


class Unwatched:
    """Reports nothing."""

    def begin(self, part: str) -> None:
        """Report it as any other line."""
        self.say(part)

    def say(self, line: str) -> None:
        """Do nothing."""

    def ticker(self, what: str) -> Ticker:
        """Return what reports nothing."""
        return Silent()
