"""The run folder: whose it is, and what lies where."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from limbeck.atomic import write_text
from limbeck.errors import InputError, LimbeckError, Problem

MARK = "recipe.yaml"
LOCK = ".lock"
DATA = "data"
STUDENT = "student"


class BusyError(LimbeckError):
    """Another process is working in the run folder: the place that was given cannot be used."""

    exit_code = 2


def seed_folder(run: Path, seeds: Sequence[int], seed: int) -> Path:
    """Give the folder of one seed: the run folder for the first, `seeds/<seed>` for the others.

    Example:
        >>> seed_folder(Path("runs/digits"), [0, 1], 1).as_posix()
        'runs/digits/seeds/1'
    """
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
        InputError: It is no folder, or there are files in it and none of them marks a run.
    """
    allowed = "an empty folder, a new one, or one that holds a run of limbeck"
    try:
        strange = sorted(path.name for path in run.iterdir() if not _ours(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(Problem("--out", str(run), allowed, f"{error.strerror}.")) from error
    if strange and not (run / MARK).is_file():
        raise InputError(Problem("--out", str(run), allowed, f"It holds {strange[0]}."))


def _ours(path: Path) -> bool:
    """Tell what a run leaves behind that was killed before it had its mark."""
    return path.name in {LOCK, DATA} or path.name.endswith(".partial")


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold a run folder, so that no two processes work in it.

    A folder that bears no mark when the block ends is taken away again: a run that was refused
    leaves nothing behind.

    Raises:
        BusyError: Somebody else holds it.
        WriteError: The folder cannot be made or written to.
    """
    missing = [path for path in (run, *run.absolute().parents) if not path.exists()]
    if not (run / LOCK).exists():
        write_text(run / LOCK, "Held while limbeck works in this folder.\n")
    with (run / LOCK).open("r+") as file:
        _lock(file.fileno(), run)
        try:
            yield
        finally:
            if not (run / MARK).exists():
                _take_away(run, missing)


def _take_away(run: Path, made: list[Path]) -> None:
    """Remove what was written into a run folder, and those folders that were made for it."""
    shutil.rmtree(run / DATA, ignore_errors=True)
    (run / LOCK).unlink(missing_ok=True)
    for folder in made:
        if any(folder.iterdir()):
            return
        folder.rmdir()


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
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def forget(run: Path, seeds: Sequence[int], kept: Sequence[Path]) -> None:
    """Remove the folders of stages and seeds that the recipe no longer has."""
    stages = {path.resolve() for path in kept}
    others = {str(seed) for seed in seeds[1:]}
    for old in (run / "stages").glob("*"):
        if old.resolve() not in stages:
            shutil.rmtree(old)
    for old in (run / "seeds").glob("*"):
        if old.name not in others:
            shutil.rmtree(old)
