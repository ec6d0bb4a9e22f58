"""Who watches a run: a person at a terminal, or nobody."""

from __future__ import annotations

from typing import Protocol

from limbeck.training import Silent, Ticker


class Watch(Protocol):
    """Hears of the run's steps."""

    def say(self, line: str) -> None:
        """Hear one line of plain words."""
        ...

    def ticker(self, what: str) -> Ticker:
        """Give something that hears how far one long step has come."""
        ...


class Unwatched:
    """Nobody watches."""

    def say(self, line: str) -> None:
        """Say nothing."""

    def ticker(self, what: str) -> Ticker:
        """Tick for nobody."""
        return Silent()
