"""Reuse of stages that several trials have in common, above all the teacher's training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from limbeck.core import fingerprint
from limbeck.core.files import write_text
from limbeck.core.imports import deferred
from limbeck.errors import InputError
from limbeck.pipeline import run_folder as folders
from limbeck.pipeline.load_recipe import read
from limbeck.pipeline.stage_order import loads_teacher
from limbeck.pipeline.stages.load import Load
from limbeck.pipeline.validate import validate
from limbeck.sweep.study import lock_of

if TYPE_CHECKING:
    from limbeck.pipeline.recipe import Recipe
    from limbeck.pipeline.stage import Stage

# Inputs of every stage; `student` is one from the first stage that builds it on.
COMMON = ("task", "data", "teacher", "threads", "device")
DONE = "record.json"


def share(recipe: Recipe, run: Path, others: Iterable[Path]) -> int:
    """Copy finished stages of other runs to a run's folder, as far as the recipes agree.

    This is only a proposal: the run checks the key and the hashes of each stage, and repeats a
    stage that does not match. Files are hard-linked where the file system allows: limbeck replaces
    files and never writes into a finished one.

    Returns:
        The number of reused stages, over all seeds.
    """
    taken = 0
    for other, other_recipe in _read(others, but=run):
        shared = _shared_stages(recipe, other_recipe)
        for seed in set(recipe.seeds) & set(other_recipe.seeds) if shared else ():
            for number, (name, stage) in enumerate(shared):
                place = (seed, number, name, stage)
                source = folders.stage_folder(other, other_recipe.seeds, *place)
                target = folders.stage_folder(run, recipe.seeds, *place)
                if not (source / DONE).is_file():
                    break
                if not target.exists():
                    _link(source, target)
                    taken += 1
    if taken and not (run / folders.MARK).exists():
        # A non-empty folder is refused unless it has a run's marker.
        content = recipe.model_dump(mode="json")
        write_text(run / folders.MARK, yaml.safe_dump(content, sort_keys=False))
    return taken


@contextmanager
def teacher_lock(recipe: Recipe, folder: Path) -> Iterator[None]:
    """Run the first trial with a teacher in one worker; the others wait, then reuse the teacher.

    Otherwise each would train it, and all would write its cached outputs at once.
    """
    stages = [stage.model_dump(mode="json") for _, stage in _stages(recipe) if _teaches(stage)]
    common = [recipe.model_dump(mode="json", include={*COMMON, "seeds"}), stages]
    path = folder / fingerprint.of_json(common)[:16]
    known = path.with_suffix(".known")
    if recipe.teachers and not known.exists():
        with lock_of(path.with_suffix(".lock")):
            if not known.exists():
                yield
                write_text(known, "A trial with this teacher is done.\n")
                return
    yield


def _read(runs: Iterable[Path], *, but: Path) -> Iterator[tuple[Path, Recipe]]:
    for run in runs:
        if run != but and (run / folders.MARK).is_file():
            try:
                yield run, validate(read(run / folders.MARK))
            except InputError:
                continue  # the recipe of another version: nothing to reuse


def _stages(recipe: Recipe) -> Sequence[tuple[str, Stage]]:
    with deferred():  # import nothing for the recipes of other runs
        stages = recipe.parsed_stages()
    return [("load", Load()), *stages] if loads_teacher(recipe, stages) else stages


def _teaches(stage: Stage) -> bool:
    return "teacher" in stage.made()


def _shared_stages(recipe: Recipe, other: Recipe) -> list[tuple[str, Stage]]:
    """Return the leading stages that two recipes share."""
    if any(getattr(recipe, name) != getattr(other, name) for name in COMMON):
        return []
    shared: list[tuple[str, Stage]] = []
    for stage, other_stage in zip(_stages(recipe), _stages(other), strict=False):
        if stage != other_stage or (recipe.student != other.student and not _teaches(stage[1])):
            break
        shared.append(stage)
    return shared


def _link(source: Path, target: Path) -> None:
    """Link a finished stage, without its start marker, so that a partial copy is not kept."""
    ignored = shutil.ignore_patterns("started", "checkpoint")
    try:
        shutil.copytree(source, target, copy_function=_linked, ignore=ignored)
    except (OSError, shutil.Error):
        # The other run is being cleaned up meanwhile: the stage is repeated.
        shutil.rmtree(target, ignore_errors=True)


def _linked(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copy2(source, target)
    return target
