"""Recording of a teacher's answers without a training: `limbeck record`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from limbeck.core.measurement import Result
from limbeck.data.cache import TeacherCache
from limbeck.errors import InputError, Problem
from limbeck.pipeline import machine
from limbeck.pipeline import run_folder as folders
from limbeck.pipeline.objective_config import ObjectiveConfig
from limbeck.pipeline.progress import NullReporter, ProgressReporter
from limbeck.pipeline.runner import Work
from limbeck.targets import SampledTargets, Targets, TopKTargets
from limbeck.teachers import CachedTeacher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limbeck.data.split import Split
    from limbeck.pipeline.recipe import Recipe
    from limbeck.tasks import Task

ROWS, BATCH = 256, 16
"""The rows of which the coverage is measured, and those of a batch."""


class Recorded(Result):
    """A record of a teacher's answers.

    Attributes:
        stage: The stage that reads it.
        folder: The folder of the record.
        form: The form of the answers to the primary output.
        element: What an answer describes.
        elements: The number of answers: of elements with weight, in all views.
        bytes: The size of the record.
        coverage: The mean probability, under the teacher, of the classes that are recorded; 1 for
            all classes. None if it is not recorded.
        seconds: The time of this call's recording; almost 0 if the record was complete.
    """

    stage: str
    folder: str
    form: str
    element: str
    elements: int
    bytes: int
    coverage: float | None
    seconds: float

    @property
    def bytes_per_element(self) -> float:
        """Return the size of an answer."""
        return self.bytes / max(1, self.elements)


def record(
    recipe: Recipe, *, out: Path, watch: ProgressReporter | None = None
) -> tuple[Recorded, ...]:
    """Record a teacher's answers to the training rows, for all runs of the recipe.

    Stages before the distillation, such as the training of a teacher, run first, or are reused. The
    record lies beside the run folder, where every run of the same teacher and data finds it; a
    recording that was interrupted is resumed.

    Args:
        recipe: The resolved recipe, with `cache_teacher` in a distillation.
        out: The run folder.
        watch: The progress reporter.

    Returns:
        One record per teacher: seeds that share one have one.

    Raises:
        InputError: No stage caches its teacher, or a run would be refused.
    """
    folders.check(out)
    with machine.threads(recipe.threads):
        accelerator = machine.accelerator_of(recipe, out)
        with folders.lock(out):
            work = Work(recipe, out, accelerator, watch or NullReporter(), resume=False)
            names = [name for name, stage in work.stages if _caches(stage)]
            if not names:
                fix = "Set stages.distill.cache_teacher=true."
                allowed = "a stage with cache_teacher: true"
                raise InputError(Problem("stages", "no recorded teacher", allowed, fix))
            work.dry_run()
            return _all_of(work)


def _caches(stage: object) -> bool:
    return isinstance(stage, ObjectiveConfig) and stage.cache_teacher and stage.needs_teacher


def _all_of(work: Work) -> tuple[Recorded, ...]:
    found: dict[str, Recorded] = {}
    for seed in work.recipe.seeds:
        for name, stage, candidate, context in work.until(seed, _caches):
            clock = time.monotonic()
            assert isinstance(stage, ObjectiveConfig)
            state = candidate.state(getattr(stage, "teacher", "teacher"))
            teacher = stage.frozen_teacher(context, state)
            seconds = time.monotonic() - clock
            if isinstance(teacher, CachedTeacher) and isinstance(teacher.record, TeacherCache):
                store = teacher.record
                if str(store.folder) not in found:
                    one = _described(store, name, context.data.train, context.task, seconds)
                    found[str(store.folder)] = one
    return tuple(found.values())


def _described(
    store: TeacherCache, stage: str, train: Split, task: Task, seconds: float
) -> Recorded:
    output = next(iter(task.kinds))
    plain = train.for_evaluation()
    elements = sum(
        int((task.weights(plain.__getitems__(rows))[output] > 0).sum())
        for rows in torch.arange(len(train)).split(BATCH)
    )
    shown = torch.tensor(train.spread(ROWS))
    masses = [
        _mass(store.lookup(rows, torch.zeros_like(rows)), output) for rows in shown.split(BATCH)
    ]
    known = [one for one in masses if one is not None]
    return Recorded(
        stage=stage,
        folder=str(store.folder),
        form=next(iter(store.layout.plain().values()))["form"].removesuffix("Targets"),
        element=task.element,
        elements=elements * (train.views or 1),
        bytes=store.size,
        coverage=float(torch.cat(known).mean()) if known else None,
        seconds=seconds,
    )


def _mass(answer: Mapping[str, Targets], output: str) -> torch.Tensor | None:
    """Return the teacher's probability of the recorded classes, per element."""
    targets = answer[output]
    if isinstance(targets, TopKTargets):
        return targets.log_probabilities.exp().sum(1)
    if isinstance(targets, SampledTargets):
        if not targets.exact:
            return None
        return (targets.log_probabilities.exp() * (targets.counts > 0)).sum(1)
    return torch.ones(targets.elements)
