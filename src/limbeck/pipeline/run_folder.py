"""Run folder: layout, ownership mark and lock."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core import fingerprint
from limbeck.core.files import WriteError, read_json, write_text
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.export.reading import probe
from limbeck.pipeline import machine
from limbeck.pipeline.candidate import Candidate, Record, Role, hashes
from limbeck.pipeline.context import Context
from limbeck.pipeline.load_recipe import read
from limbeck.pipeline.progress import ProgressReporter
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.results import versions
from limbeck.pipeline.validate import check_code, validate
from limbeck.tasks import TASKS

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from limbeck.pipeline.stage import Stage


MARK = "recipe.yaml"
LOCK = ".lock"
HOLDER = ".lock.holder"
DATA = "data"
STUDENT = "student"
PATIENCE = 0.5
"""Seconds to wait for the lock: a refused process holds it briefly."""

ATTEMPTS = 100
"""Attempts to acquire the lock while other processes create and remove the folder."""


class BusyError(LimbeckError):
    """Another process holds the lock of the run folder; exit code 1."""


def seed_folder(run: Path, seeds: Sequence[int], seed: int) -> Path:
    """Return the folder of one seed: the run folder for the first, `seeds/<seed>` for others.

    Example:
        >>> seed_folder(Path("runs/digits"), [0, 1], 1).as_posix()
        'runs/digits/seeds/1'
    """
    return run if seed == seeds[0] else run / "seeds" / str(seed)


def stage_folder(
    run: Path, seeds: Sequence[int], seed: int, number: int, name: str, stage: Stage
) -> Path:
    """Return the folder of a seed's stage, numbered from 1; the first seed's, if all share it.

    Example:
        >>> from limbeck.pipeline.stages.train_teacher import TrainTeacher
        >>> own, shared = TrainTeacher(epochs=1), TrainTeacher(epochs=1, seed=0)
        >>> stage_folder(Path("run"), [0, 1], 1, 0, "train_teacher", own).as_posix()
        'run/seeds/1/stages/01-train_teacher'
        >>> stage_folder(Path("run"), [0, 1], 1, 0, "train_teacher", shared).as_posix()
        'run/stages/01-train_teacher'
    """
    run = seed_folder(run, seeds, seed if stage.shared_seed() is None else seeds[0])
    return run / "stages" / f"{number + 1:02d}-{name}"


def check(run: Path) -> None:
    """Raise if a folder contains something other than a run.

    Raises:
        InputError: Not a folder, or it contains files but no mark of a run.
    """

    def leftover(name: str) -> bool:
        """Return whether a run that was killed early leaves such a file, and no mark."""
        return name in {LOCK, HOLDER, DATA} or name.endswith(".partial")

    check_folder(run, mark=MARK, kind="run", ignored=leftover)


def check_folder(folder: Path, *, mark: str, kind: str, ignored: Callable[[str], bool]) -> None:
    """Raise if a folder has files, other than those with ignored names, and no mark.

    Raises:
        InputError: It has such files, or is not a folder.
    """
    allowed = f"an empty folder, a new one, or one that holds a {kind} of limbeck"
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(Problem("--out", str(folder), allowed, f"{error.strerror}.")) from error
    foreign = [name for name in names if not ignored(name)]
    if foreign and not (folder / mark).is_file():
        raise InputError(Problem("--out", str(folder), allowed, f"It holds {foreign[0]}."))


def check_place(run: Path) -> None:
    """Raise if a folder cannot be used by a run, without writing anything.

    Raises:
        InputError: It contains something else, or is not writable.
    """
    check(run)
    place = next(path for path in (run.absolute(), *run.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise InputError(Problem("--out", str(run), f"a place to write to; {place} is none"))


@contextmanager
def lock(run: Path) -> Iterator[None]:
    """Lock a run folder during the block, so that no two processes work in it.

    A folder without a mark at the end of the block is removed: a refused run leaves no files.

    Raises:
        BusyError: Another process holds the lock; the message identifies it.
        WriteError: The folder cannot be created or written.
    """
    lock, made = _locked(run)
    try:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        process = f"process {os.getpid()} on {platform.node()}, since {started}"
        write_text(run / HOLDER, process)
        yield
    finally:
        with suppress(OSError):
            (run / HOLDER).unlink()
        if not (run / MARK).exists():
            _remove(run, made)
        lock.release()


def _locked(run: Path) -> tuple[BaseFileLock, list[Path]]:
    """Acquire the lock of a folder, and return it with the folders created for it."""
    from filelock import FileLock, Timeout

    lock = FileLock(run / LOCK, timeout=PATIENCE, thread_local=False)
    for _ in range(ATTEMPTS):
        missing = [path for path in (run, *run.absolute().parents) if not path.exists()]
        try:
            run.mkdir(parents=True, exist_ok=True)
            lock.acquire(poll_interval=PATIENCE / 20)
        except Timeout as error:
            raise BusyError(_busy(run)) from error
        except (FileNotFoundError, FileExistsError):
            continue  # a refused process removed the folder meanwhile
        except OSError as error:
            reason = error.strerror or error
            raise WriteError(f"{run / LOCK}: could not be locked ({reason}).") from error
        return lock, missing
    raise BusyError(_busy(run))


def _busy(run: Path) -> str:
    try:
        holder = (run / HOLDER).read_text(encoding="utf-8", errors="replace")[:200]
    except OSError:  # not written yet, or its process is about to end
        holder = "another process"
    return f"{run}: locked by {holder}. Wait until it ends, or choose another --out."


def _remove(run: Path, made: list[Path]) -> None:
    """Remove files written into a run folder, and the folders created for it.

    The lock is held meanwhile; a waiting process finds it removed, and creates it again.
    """
    shutil.rmtree(run / DATA, ignore_errors=True)
    with suppress(OSError):  # not empty, or removed by another process
        (run / LOCK).unlink()
        for folder in made:
            folder.rmdir()


def cleanup(run: Path) -> None:
    """Remove the partial files of a killed process."""
    for leftover in run.rglob(".*.partial"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def prune_stale(run: Path, seeds: Sequence[int], kept: Sequence[Path]) -> None:
    """Remove the folders of stages and seeds that the recipe no longer contains."""
    stages = {path.resolve() for path in kept}
    others = {str(seed) for seed in seeds[1:]}
    for old in (run / "stages").glob("*"):
        if old.resolve() not in stages:
            shutil.rmtree(old)
    for old in (run / "seeds").glob("*"):
        if old.name not in others:
            shutil.rmtree(old)


ROLES: tuple[Role, ...] = ("teacher", "student")
LARGEST_RECORD = 2**26
FIX = "Run its recipe again, with the same --out."


def open_run(run: Path, *, watch: ProgressReporter) -> tuple[Candidate, Context]:
    """Load the first seed's chain, whose student ships, and its context.

    Raises:
        InputError: Not a run folder, or a file of it is missing or was changed.
    """
    from limbeck.data.load import load

    recipe = recipe_of(run)
    check_code(recipe)
    candidate = Candidate()
    for folder in sorted((run / "stages").glob("*")):
        candidate = candidate.append(folder, _record(folder))
    # Each file is run once in a process with limits, since the folder may be untrusted.
    newest = filter(None, map(candidate.newest, ROLES))
    for path in sorted({folder / artefact.file for folder, artefact in newest}):
        probe(path)
    if not candidate.lineage:
        raise InputError(Problem(str(run / "stages"), "no stage", "a run that has ended", FIX))
    watch.log(f"Reading {recipe.data.source} {recipe.data.name}".rstrip())
    data = load(recipe.data, workdir=run / DATA)
    return candidate, Context(
        recipe=recipe,
        data=data,
        task=TASKS.load(recipe.task).of(data),
        seed=recipe.seeds[0],
        folder=run,
        run=run,
        teacher_cache=run.parent / "knowledge",
        key=fingerprint.of_json([candidate.key, fingerprint.of_code(), versions()]),
        accelerator=machine.accelerator_of(recipe, run),
        progress=watch,
        resume=False,
    )


def recipe_of(run: Path) -> Recipe:
    """Load a run folder's recipe, without importing user code.

    Raises:
        InputError: Not a run folder, or its recipe is invalid.
    """
    mark = run / MARK
    if not mark.is_file():
        raise InputError(Problem("RUN", str(run), "the folder of a run of limbeck"))
    return validate(read(mark))


def _record(folder: Path) -> Record:
    path = folder / "record.json"
    try:
        record = Record.model_validate(read_json(path, limit=LARGEST_RECORD))
    except (ValueError, InputError) as error:
        allowed = "the record of a stage that has ended"
        raise InputError(Problem(str(path), f"{type(error).__name__}", allowed, FIX)) from error
    try:
        found = hashes(folder, list(record.files))
    except OSError as error:
        given = f"{error.filename} cannot be read"
        raise InputError(Problem(str(folder), given, "every file of the stage", FIX)) from error
    for artefact in record.artefacts:
        if artefact.file not in record.files:
            given = f"{artefact.file} without a hash"
            raise InputError(Problem(str(path), given, "a record of every file of the stage", FIX))
    for name, digest in record.files.items():
        if found[name] != digest:
            given = f"{name} was changed since the stage wrote it"
            raise InputError(Problem(str(folder), given, "the files as they were written", FIX))
    return record
