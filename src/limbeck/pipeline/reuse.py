"""What a stage's outcome depends on, so that the same work is not done twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck import fingerprint
from limbeck.atomic import write_text
from limbeck.errors import InputError
from limbeck.pipeline import candidate as candidates
from limbeck.pipeline.candidate import Candidate, Record
from limbeck.pipeline.problems import of_model

if TYPE_CHECKING:
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.context import Context
    from limbeck.pipeline.recipe import Recipe
    from limbeck.pipeline.stage import Stage

# How often a stage saves and logs, and who reads the data, changes nothing of what it makes.
INDIFFERENT = {"checkpoint_every", "log_every", "workers"}
STARTED = "started"


def key_of(name: str, stage: Stage, candidate: Candidate, context: Context, *, code: str) -> str:
    """Name all that a stage's outcome depends on.

    Args:
        name: The stage's name.
        stage: Its settings.
        candidate: What it starts from.
        context: The recipe, the data and the seed.
        code: The hash of limbeck's own source.
    """
    recipe, data = context.recipe, context.data
    augment = data.train.augment
    makes_teacher = "teacher" in stage.made()
    made = _models(recipe, stage)
    content: dict[str, Any] = {
        "stage": name,
        "settings": stage.model_dump(mode="json", exclude=INDIFFERENT),
        "own code": {str(path): fingerprint.of_file(path) for path in stage.own_code()},
        "seed": context.seed,
        "data": data.facts.fingerprint,
        "preprocess": data.preprocess.fingerprint,
        "augment": None if augment is None else augment.model_dump(mode="json"),
        "task": recipe.task,
        "models": [_model(spec, where) for where, spec in made],
        # An export writes the architecture down, whatever stage made the student.
        "student": recipe.small.model_dump(mode="json") if recipe.small else None,
        "before": candidate.key,
        "processes": context.accelerator.num_processes,
        "threads": recipe.threads,
        "device": recipe.device,
        "code": code,
    }
    if makes_teacher:
        del content["student"]
    if name == "export":  # the files carry these in their headers
        content["stamp"] = [recipe.name, recipe.provenance.model_dump(mode="json")]
    return fingerprint.of_json(content)


def _models(recipe: Recipe, stage: Stage) -> list[tuple[str, ModelSpec]]:
    """List the models that a stage builds and trains, with their places in the recipe."""
    if "teacher" in stage.made():
        return [("teacher", spec) for spec in recipe.teachers]
    if "student" in stage.made() and recipe.small is not None:
        return [("student", recipe.small)]
    return []


def _model(spec: ModelSpec, where: str) -> dict[str, Any]:
    """Describe a model, with the contents of the files that it is made from."""
    from limbeck.callables import file_of
    from limbeck.models.weights import find

    try:
        files = [] if spec.weights is None else [find(spec.weights)]
    except InputError as error:
        raise InputError(*(of_model(problem, where) for problem in error.problems)) from error
    code = file_of(spec.name) if spec.source == "python" else None
    files += [] if code is None else [code]
    if spec.path is not None:
        files += sorted(path for path in Path(spec.path).rglob("*") if path.is_file())
    hashes = {path.name: fingerprint.of_file(path) for path in files if path.is_file()}
    return {**spec.model_dump(mode="json"), "files": hashes}


def finished(context: Context) -> Record | None:
    """Give the record of this very work if it was done before, and tidy up after it."""
    record = candidates.load(context.folder, key=context.key)
    if record is not None and context.main:
        drop_checkpoints(context.folder)
    return record


def begin(context: Context) -> None:
    """Empty a stage's folder; checkpoints of the very same work stay if it is to go on."""
    started = context.folder / STARTED
    same = started.is_file() and started.read_text(errors="replace") == context.key
    if not (same and context.resume):
        if same and any(context.folder.rglob("checkpoint/*.safetensors")):
            line = "  starting anew; --resume would have gone on from the checkpoint"
            context.watch.say(line)
        shutil.rmtree(context.folder, ignore_errors=True)
    write_text(started, context.key)


def finish(context: Context, record: Record) -> None:
    """Write a stage's record; only then is it done, and its checkpoints are not needed any more."""
    candidates.save(context.folder, record)
    drop_checkpoints(context.folder)


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of trainings that are over."""
    for leftover in list(folder.rglob("checkpoint")):
        shutil.rmtree(leftover, ignore_errors=True)
