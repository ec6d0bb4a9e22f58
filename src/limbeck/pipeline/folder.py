"""The run folder: whose it is, and what lies where."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limbeck.atomic import write_text
from limbeck.errors import InputError, LimbeckError, Problem

MARK = "recipe.yaml"


class BusyError(LimbeckError):
    """Another process is working in the run folder."""


def seed_folder(run: Path, seeds: list[int], seed: int) -> Path:
    """Give the folder of one seed: the run folder itself for the first, `seeds/<seed>` for the others."""
    return run if seed == seeds[0] else run / "seeds" / str(seed)


def stage_folder(run: Path, number: int, name: str) -> Path:
    """Give a stage's folder, numbered from 1.

    Example:
        >>> stage_folder(Path("runs/digits"), 0, "teach").as_posix()
        'runs/digits/stages/01-teach'
    """
    return run / "stages" / f"{number + 1:02d}-{name}"


def check(run: Path) -> None:
    """Refuse a folder that holds something which is not a run.

    Raises:
        InputError: There are files in it and none of them marks a run.
    """
    if run.is_file() or (run.is_dir() and any(run.iterdir()) and not (run / MARK).exists()):
        raise InputError(
            Problem(
                "--out", str(run), "an empty folder, a new one, or one that holds a run of limbeck"
            )
        )


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold a run folder, so that no two processes work in it.

    Raises:
        BusyError: Somebody else holds it.
        WriteError: The folder cannot be made or written to.
    """
    write_text(run / ".lock", "Held while limbeck works in this folder.\n")
    with (run / ".lock").open("r+") as file:
        _lock(file.fileno(), run)
        yield


def _lock(descriptor: int, run: Path) -> None:
    if sys.platform == "win32":  # pragma: no cover - no advisory locks of this kind there
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise BusyError(
            f"{run}: another process is working in this folder; wait, or choose another --out."
        ) from error


def sweep(run: Path) -> None:
    """Remove what a killed process left half-written."""
    for leftover in run.rglob(".*.partial"):
        leftover.unlink(missing_ok=True)
