"""Loading of a finished run: its recipe, data and stage results."""

from __future__ import annotations

from pathlib import Path

from limbeck import fingerprint
from limbeck.bounded import read_json
from limbeck.errors import InputError, Problem
from limbeck.export.reading import probe
from limbeck.pipeline import folder as folders
from limbeck.pipeline import machine
from limbeck.pipeline.candidate import Candidate, Record, Role, hashes
from limbeck.pipeline.context import Context
from limbeck.pipeline.reading import read
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.validate import check_code, validate
from limbeck.pipeline.versions import versions
from limbeck.pipeline.watch import Watch
from limbeck.tasks import TASKS

ROLES: tuple[Role, ...] = ("teacher", "student")
LARGEST_RECORD = 2**26
FIX = "Run its recipe again, with the same --out."


def reopen(run: Path, *, watch: Watch) -> tuple[Candidate, Context]:
    """Load the first seed's chain, whose student ships, and its context.

    Args:
        run: A run folder.
        watch: The progress reporter.

    Raises:
        InputError: Not a run folder, or a file of it is missing or was changed.
    """
    from limbeck.data.load import load

    recipe = recipe_of(run)
    check_code(recipe)
    candidate = _lineage(run)
    watch.say(f"Reading {recipe.data.source} {recipe.data.name}".rstrip())
    data = load(recipe.data, workdir=run / folders.DATA)
    return candidate, Context(
        recipe=recipe,
        data=data,
        task=TASKS.load(recipe.task)(classes=data.classes),
        seed=recipe.seeds[0],
        folder=run,
        run=run,
        knowledge=run.parent / "knowledge",
        key=fingerprint.of_json([candidate.key, fingerprint.of_code(), versions()]),
        accelerator=machine.accelerator_of(recipe, run),
        watch=watch,
        resume=False,
    )


def recipe_of(run: Path) -> Recipe:
    """Load a run folder's recipe, without importing user code.

    Raises:
        InputError: Not a run folder, or its recipe is invalid.
    """
    mark = run / folders.MARK
    if not mark.is_file():
        raise InputError(Problem("RUN", str(run), "the folder of a run of limbeck"))
    return validate(read(mark))


def _lineage(run: Path) -> Candidate:
    candidate = Candidate()
    for folder in sorted((run / "stages").glob("*")):
        candidate = candidate.then(folder, _record(folder))
    _probe(candidate)
    if not candidate.lineage:
        raise InputError(Problem(str(run / "stages"), "no stage", "a run that has ended", FIX))
    return candidate


def _probe(candidate: Candidate) -> None:
    """Run each file once in a process with limits, since the folder may be untrusted."""
    newest = {
        folder / artefact.file
        for role in ROLES
        if (found := candidate.newest(role)) is not None
        for folder, artefact in [found]
    }
    for path in sorted(newest):
        probe(path)


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
    strange = [one.file for one in record.artefacts if one.file not in record.files]
    if strange:
        given = f"{strange[0]} without a hash"
        raise InputError(Problem(str(path), given, "a record of every file of the stage", FIX))
    changed = [name for name in record.files if found[name] != record.files[name]]
    if changed:
        given = f"{changed[0]} was changed since the stage wrote it"
        raise InputError(Problem(str(folder), given, "the files as they were written", FIX))
    return record
