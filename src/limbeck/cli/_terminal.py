"""What a person at a terminal sees; of a run under way, a file or a pipe sees nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from limbeck.pipeline.watch import Watch


def show(text: str) -> None:
    """Write to standard output what may hold other people's words."""
    typer.echo(printable(text))


def complain(text: str) -> None:
    """Write to standard error what may hold other people's words."""
    typer.echo(printable(text), err=True)


def printable(text: str) -> str:
    r"""Write out what a terminal would obey: a recipe's name may not clear the screen.

    Example:
        >>> printable("digits\x1b[2J")
        'digits\\x1b[2J'
    """
    return "".join(
        letter if letter in "\n\t" or letter.isprintable() else ascii(letter)[1:-1]
        for letter in text
    )


@contextmanager
def watch() -> Iterator[Watch]:
    """Give somebody who watches: progress bars at a terminal, silence elsewhere."""
    from limbeck.pipeline.watch import Unwatched

    if not sys.stderr.isatty():
        yield Unwatched()
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
        TextColumn("  {task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Terminal(progress)


class _Terminal:
    """Lines and bars on standard error."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def say(self, line: str) -> None:
        self._progress.console.print(printable(line), markup=False, highlight=False)

    def ticker(self, what: str) -> _Bar:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(printable(what), total=None)
        return _Bar(self._progress, self._task, printable(what))


class _Bar:
    """One progress bar."""

    def __init__(self, progress: Progress, task: TaskID, what: str) -> None:
        self._progress, self._task, self._what = progress, task, what

    def tick(self, done: int, total: int, note: str) -> None:
        said = f"{self._what}, {note}"
        self._progress.update(self._task, completed=done, total=total, description=said)
