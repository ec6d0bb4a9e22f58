"""What several trials have in common is done once: the teacher, above all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from limbeck import fingerprint
from limbeck.atomic import write_text
from limbeck.callables import deferred
from limbeck.errors import InputError
from limbeck.pipeline import folder as folders
from limbeck.pipeline.chain import loads_teacher
from limbeck.pipeline.reading import read
from limbeck.pipeline.stages.load import Load
from limbeck.pipeline.validate import validate
from limbeck.sweep.locks import held

if TYPE_CHECKING:
    from limbeck.pipeline.recipe import Recipe
    from limbeck.pipeline.stage import Stage

# What every stage's outcome depends on; `student` counts from the first stage that makes one.
COMMON = ("task", "data", "teacher", "threads", "device")
DONE = "record.json"


def share(recipe: Recipe, run: Path, others: Iterable[Path]) -> int:
    """Take finished stages of other runs into a run's folder, as far as the recipes agree.

    What is taken is no more than a guess: the run itself holds the key and the hashes of each stage
    against its own, and does anew what does not agree. Files are linked, not copied, where the disk
    can: limbeck replaces files and never writes into one that is finished.

    Args:
        recipe: What the run is to do.
        run: Its folder.
        others: The folders of other runs.

    Returns:
        How many stages were taken, over all seeds.
    """
    taken = 0
    for other, its in _read(others, but=run):
        agreed = _agreed(recipe, its)
        for seed in set(recipe.seeds) & set(its.seeds) if agreed else ():
            source = folders.seed_folder(other, its.seeds, seed)
            target = folders.seed_folder(run, recipe.seeds, seed)
            for number, (name, _) in enumerate(_stages(recipe)[:agreed]):
                begun, finished = (
                    folders.stage_folder(place, number, name) for place in (target, source)
                )
                if not (finished / DONE).is_file():
                    break
                if not begun.exists():
                    _link(finished, begun)
                    taken += 1
    if taken and not (run / folders.MARK).exists():
        # A folder with files in it is refused unless it bears a run's mark.
        content = recipe.model_dump(mode="json")
        write_text(run / folders.MARK, yaml.safe_dump(content, sort_keys=False))
    return taken


@contextmanager
def teaching(recipe: Recipe, folder: Path) -> Iterator[None]:
    """Let one worker alone do the first trial with a teacher; the others wait, and then take it.

    Otherwise each would teach it, and all would record its answers into one store at once.

    Args:
        recipe: The trial's recipe.
        folder: Where the locks lie, one for each teacher.
    """
    made = [stage.model_dump(mode="json") for _, stage in _stages(recipe) if _teaches(stage)]
    common = [recipe.model_dump(mode="json", include={*COMMON, "seeds"}), made]
    place = folder / fingerprint.of_json(common)[:16]
    known = place.with_suffix(".known")
    if recipe.teachers and not known.exists():
        with held(place.with_suffix(".lock")):
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
                continue  # a recipe of another version: there is nothing to take


def _stages(recipe: Recipe) -> Sequence[tuple[str, Stage]]:
    with deferred():  # of other runs' recipes nothing is imported
        stages = recipe.parsed_stages()
    return [("load", Load()), *stages] if loads_teacher(recipe, stages) else stages


def _teaches(stage: Stage) -> bool:
    return "teacher" in stage.made()


def _agreed(recipe: Recipe, other: Recipe) -> int:
    """Count the leading stages that two recipes do alike."""
    if any(getattr(recipe, name) != getattr(other, name) for name in COMMON):
        return 0
    count = 0
    for mine, its in zip(_stages(recipe), _stages(other), strict=False):
        if mine != its or (recipe.student != other.student and not _teaches(mine[1])):
            break
        count += 1
    return count


def _link(source: Path, target: Path) -> None:
    """Link a finished stage; without the note of its beginning, so that half of one is not kept."""
    ignored = shutil.ignore_patterns("started", "checkpoint")
    try:
        shutil.copytree(source, target, copy_function=_linked, ignore=ignored)
    except (OSError, shutil.Error):
        # The other run is being tidied up meanwhile: the stage is done anew.
        shutil.rmtree(target, ignore_errors=True)


def _linked(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)
    return target
