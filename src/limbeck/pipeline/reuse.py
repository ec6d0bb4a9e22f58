"""Cache keys of stages, so that unchanged work is not repeated."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core import fingerprint, imports, plugins, user_code
from limbeck.core.files import write_text
from limbeck.models.spec import SOURCES
from limbeck.pipeline import candidate as candidates
from limbeck.pipeline.candidate import Candidate, Record
from limbeck.pipeline.results import versions
from limbeck.pipeline.stages import STAGES
from limbeck.pipeline.validate import model_located
from limbeck.tasks import TASKS

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.context import Context
    from limbeck.pipeline.stage import Stage

# Checkpoint and log intervals, and the number of workers, do not change the result.
INDIFFERENT = {"checkpoint_every", "log_every", "num_workers"}
STARTED = "started"


class Inputs:
    """Hashes of inputs beyond settings, once per run: limbeck, packages, models, user code.

    Args:
        build: Function that builds a model of the recipe, always from the same seed.
    """

    def __init__(self, build: Callable[[ModelSpec], nn.Module]) -> None:
        self._build = build
        self._models: dict[str, dict[str, Any]] = {}
        self._functions: dict[str, object] = {}

    @cached_property
    def code(self) -> str:
        """Return the hash of limbeck's source and of the versions of the packages used."""
        return fingerprint.of_json([fingerprint.of_code(), versions()])

    def function(self, name: str) -> object:
        """Hash a user callable: its source, its imports, and the files read meanwhile."""
        if name not in self._functions:
            self._functions[name] = [
                *imports.fingerprint_of(name),
                *plugins.fingerprint_of(name),
            ]
        return self._functions[name]

    def model(self, spec: ModelSpec, where: str) -> dict[str, Any]:
        """Return a model's settings, file hashes and the hash of the built module.

        Raises:
            InputError: A file is missing, or the model cannot be built.
        """
        content = spec.model_dump(mode="json")
        known = fingerprint.of_json(content)
        if known not in self._models:
            with model_located(where):
                files = _files(spec)
                with user_code.reads() as read:
                    built = fingerprint.of_module(self._build(spec))
            self._models[known] = {
                **content,
                "files": files,
                "built": built,
                "code": self.function(spec.name) if spec.source == "python" else None,
                "source": self.function(SOURCES.code_of(spec.source)),
                "read": sorted(user_code.hash_reads(read).values()),
            }
        return self._models[known]


def key_of(
    name: str, stage: Stage, candidate: Candidate, context: Context, *, inputs: Inputs
) -> str:
    """Compute the hash of all inputs of a stage."""
    recipe, data, student = context.recipe, context.data, context.recipe.student_spec
    augmentation, made = data.train.augmentation, stage.made()
    models: list[tuple[str, ModelSpec]] = []
    if "teacher" in made:
        models = [("teacher", spec) for spec in recipe.teachers]
    elif "student" in made and student is not None:
        models = [("student", student)]
    further = stage.further_models().items()
    models += [(where, spec) for where, spec in further if spec is not None]
    outside = [STAGES.code_of(name), TASKS.code_of(recipe.task), *stage.own_code()]
    content: dict[str, Any] = {
        "stage": name,
        "settings": stage.model_dump(mode="json", exclude=INDIFFERENT),
        "own code": {name: inputs.function(name) for name in filter(None, outside)},
        "seed": context.seed,
        "data": data.facts.fingerprint,
        "preprocess": data.preprocess.fingerprint,
        "augment": None if augmentation is None else augmentation.identity(),
        "task": recipe.task,
        "models": [inputs.model(spec, where) for where, spec in models],
        "before": candidate.key,
        "processes": context.accelerator.num_processes,
        "threads": recipe.threads,
        "device": recipe.device,
        "code": inputs.code,
    }
    # An export writes the architecture, whichever stage built the student.
    architecture = None if student is None else inputs.model(student, "student")
    if "teacher" not in made:
        content["student"] = architecture
    if name == "export":  # written into the headers of the files
        content["stamp"] = [recipe.name, recipe.provenance.model_dump(mode="json")]
    return fingerprint.of_json(content)


def _files(spec: ModelSpec) -> dict[str, str]:
    from limbeck.models.checkpoint import files_of, find

    found: dict[str, Path] = {}
    if spec.checkpoint is not None:
        found |= {file.name: file for file in files_of(find(spec.checkpoint))}
    if spec.folder is not None:
        found.update(fingerprint.files_of(Path(spec.folder)))
    return {name: fingerprint.of_file(path) for name, path in found.items()}


def peek(context: Context) -> Record | None:
    """Return the record of the same work if done before, without writing."""
    record = candidates.load(context.folder, key=context.key)
    return record if record is not None and user_code.unchanged(record.read) else None


def finished(context: Context) -> Record | None:
    """Return the record of the same work if done before, and clean up after it."""
    record = peek(context)
    if record is not None and context.main:
        _drop_checkpoints(context.folder)
    return record


def begin(context: Context) -> None:
    """Empty a stage's folder, except for checkpoints of the same work when resuming."""
    started = context.folder / STARTED
    same = started.is_file() and started.read_text(errors="replace") == context.key
    if not (same and context.resume):
        if same and any(context.folder.rglob("checkpoint/*.safetensors")):
            line = "  starting anew; --resume would have continued from the checkpoint"
            context.progress.log(line)
        shutil.rmtree(context.folder, ignore_errors=True)
    write_text(started, context.key)


def finish(context: Context, record: Record) -> None:
    """Write a stage's record, which marks it as done, and remove its checkpoints."""
    candidates.save(context.folder, record)
    _drop_checkpoints(context.folder)


def _drop_checkpoints(folder: Path) -> None:
    for leftover in list(folder.rglob("checkpoint")):
        shutil.rmtree(leftover, ignore_errors=True)
