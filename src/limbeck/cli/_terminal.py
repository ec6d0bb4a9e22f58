"""Terminal output: progress bars at a terminal, log lines in a file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

FIRST, LATER = 10.0, 30.0
"""Seconds between reports of a long task without a milestone: before the first, and after."""
MILESTONES, APART = 20, 5.0
"""The number of milestones that are all reported; after them, the fewest seconds between two."""

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from limbeck.pipeline.progress import ProgressReporter


def show(text: str) -> None:
    """Write to standard output, escaping control characters of untrusted text."""
    typer.echo(printable(text))


def show_error(text: str) -> None:
    """Write to standard error, escaping control characters of untrusted text."""
    typer.echo(printable(text), err=True)


def printable(text: str) -> str:
    r"""Escape control characters: a recipe's name must not clear the screen.

    Example:
        >>> printable("digits\x1b[2J")
        'digits\\x1b[2J'
    """
    return "".join(
        letter if letter in "\n\t" or letter.isprintable() else ascii(letter)[1:-1]
        for letter in text
    )


@contextmanager
def watch(*, quiet: bool = False) -> Iterator[ProgressReporter]:
    """Yield a progress reporter on standard error: bars at a terminal, log lines elsewhere."""
    if quiet:
        from limbeck.pipeline.progress import NullReporter

        yield NullReporter()
        return
    if not sys.stderr.isatty():
        yield _Log()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        # Last, so that a narrow terminal truncates it.
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Terminal(progress)


class _Terminal:
    """A progress reporter with lines and bars on standard error."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, part: str) -> None:
        self._remove_bar()
        self.log(part)

    def log(self, line: str) -> None:
        self._progress.console.print(printable(line), markup=False, highlight=False)

    def progress_bar(self, name: str) -> _Bar:
        self._remove_bar()
        self._task = self._progress.add_task(printable(name), total=None)
        return _Bar(self._progress, self._task, printable(name))

    def _remove_bar(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


class _Bar:
    """A progress bar with a note."""

    def __init__(self, progress: Progress, task: TaskID, name: str) -> None:
        self._progress, self._task, self._name = progress, task, name

    def update(self, done: int, total: int, note: str, *, milestone: bool = False) -> None:
        text = f"{self._name}: {printable(note)}"
        self._progress.update(self._task, completed=done, total=total, description=text)


class _Log:
    """A progress reporter that logs lines with the time of day and the part of the run."""

    def __init__(self) -> None:
        self._part = ""

    def begin(self, part: str) -> None:
        self._part = f"{part}: "
        self.log(part)

    def log(self, line: str) -> None:
        show_error(f"{time.strftime('%H:%M:%S')} {line.strip()}")

    def progress_bar(self, name: str) -> _LogBar:
        return _LogBar(self, f"{self._part}{name}")


class _LogBar:
    """A logger of one long task: at milestones, and every half minute between them."""

    def __init__(self, log: _Log, name: str) -> None:
        self._log, self._name = log, name
        self._began = self._reported = time.monotonic()
        self._first: int | None = None
        self._milestones, self._wait = 0, FIRST

    def update(self, done: int, total: int, note: str, *, milestone: bool = False) -> None:
        now = time.monotonic()
        # A resumed training begins with some of its steps done.
        self._first = done - 1 if self._first is None else self._first
        self._milestones += milestone
        since = now - self._reported
        few = self._milestones <= MILESTONES or since >= APART or done == total
        if not (milestone and few) and since < self._wait:
            return
        self._reported, self._wait = now, LATER
        rate = (done - self._first) / max(now - self._began, 1e-9)
        left = f", {_clock((total - done) / rate)} left" if done < total else ""
        self._log.log(f"{self._name}: {note}, {done}/{total} at {rate:.3g}/s{left}")


def _clock(seconds: float) -> str:
    """Format a duration.

    Example:
        >>> _clock(62), _clock(3723)
        ('1:02', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
