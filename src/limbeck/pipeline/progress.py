"""Progress reporting of a run: to a terminal, to a log, or disabled."""

from __future__ import annotations

from typing import Protocol

from limbeck.training import NullProgressBar, ProgressBar


class ProgressReporter(Protocol):
    """A progress reporter of a run."""

    def begin(self, part: str) -> None:
        """Report the start of a part of the run."""
        ...

    def log(self, line: str) -> None:
        """Report one line of text."""
        ...

    def progress_bar(self, name: str) -> ProgressBar:
        """Return a progress reporter for one long task."""
        ...


class NullReporter:
    """A reporter that does nothing."""

    def begin(self, part: str) -> None:
        """Report the start like any other line."""
        self.log(part)

    def log(self, line: str) -> None:
        """Do nothing."""

    def progress_bar(self, name: str) -> ProgressBar:
        """Return a progress bar without output."""
        return NullProgressBar()
