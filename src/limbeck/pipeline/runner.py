"""Run a recipe: every seed, every stage, the examination, and what is written at the end."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from limbeck import fingerprint
from limbeck.atomic import write_text
from limbeck.pipeline import candidate as candidates
from limbeck.pipeline import folder as folders
from limbeck.pipeline.assemble import assemble
from limbeck.pipeline.candidate import Candidate
from limbeck.pipeline.context import Context
from limbeck.pipeline.examine import Examination, examination
from limbeck.pipeline.publish import publish
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.stages.load import Load
from limbeck.pipeline.watch import Unwatched, Watch
from limbeck.tasks import TASKS

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.data.load import Data
    from limbeck.pipeline.recipe import Recipe
    from limbeck.report.result import RunResult
    from limbeck.tasks import Task


@dataclass(frozen=True)
class _Job:
    """One run under way: what stays the same from seed to seed."""

    recipe: Recipe
    out: Path
    data: Data
    task: Task
    accelerator: Accelerator
    watch: Watch
    resume: bool
    code: str


def run(
    recipe: Recipe, *, out: Path, resume: bool = False, watch: Watch | None = None
) -> RunResult:
    """Run a recipe and write its folder.

    A stage whose settings, inputs and code are those of an earlier run in the same folder is taken from there; one
    that changed, and all after it, is done anew.

    Args:
        recipe: The recipe, resolved.
        out: The run folder.
        resume: Go on from the checkpoint of a training that was interrupted, instead of starting it anew.
        watch: Who hears how far it has come.

    Raises:
        InputError: The data is missing or does not fit, or the folder holds something else.
        LimbeckError: A file could not be written, a loss became NaN, or another process holds the folder.
        KeyboardInterrupt: Somebody interrupted; what was done is saved.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    watch = watch or Unwatched()
    folders.check(out)
    accelerator = _accelerator(recipe, out)
    with accelerator.main_process_first():
        data = _load(recipe, out, watch)
    task = TASKS.load(recipe.task)(classes=data.classes)
    if not accelerator.is_main_process:
        watch = Unwatched()
    job = _Job(recipe, out, data, task, accelerator, watch, resume, fingerprint.of_code())
    if not accelerator.is_main_process:
        return _work(job, started, clock)
    with folders.held(out):
        folders.sweep(out)
        write_text(
            out / folders.MARK, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        )
        return _work(job, started, clock)


def _work(job: _Job, started: datetime, clock: float) -> RunResult:
    finished = [_seed(job, seed) for seed in job.recipe.seeds]
    result = assemble(
        recipe=job.recipe,
        data=job.data,
        lineages=[candidate for candidate, _ in finished],
        examinations=[examined for _, examined in finished],
        started=started,
        seconds=time.monotonic() - clock,
        command=" ".join(["limbeck", *sys.argv[1:]]),
    )
    if job.accelerator.is_main_process:
        publish(result, out=job.out, lineage=finished[0][0], data=job.data, task=job.task)
    job.accelerator.end_training()
    return result


def _accelerator(recipe: Recipe, out: Path) -> Accelerator:
    import torch
    from accelerate import Accelerator

    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    precisions = {getattr(stage, "precision", "float32") for _, stage in recipe.parsed_stages()}
    mixed = next((name for name in ("bfloat16", "float16") if name in precisions), None)
    accelerator = Accelerator(
        cpu=recipe.device == "cpu",
        mixed_precision={"bfloat16": "bf16", "float16": "fp16", None: "no"}[mixed],
        log_with=list(recipe.trackers) or None,
        project_dir=str(out),
    )
    if recipe.trackers:
        accelerator.init_trackers(recipe.name)
    return accelerator


def _load(recipe: Recipe, out: Path, watch: Watch) -> Data:
    from limbeck.data.load import load

    watch.say(f"Reading {recipe.data.source} {recipe.data.name}".rstrip())
    return load(recipe.data, workdir=out / "data")


def _seed(job: _Job, seed: int) -> tuple[Candidate, Examination]:
    """Run every stage on one seed, then examine what came of it."""
    run_folder = folders.seed_folder(job.out, job.recipe.seeds, seed)
    candidate = Candidate()
    stages = job.recipe.parsed_stages()
    if job.recipe.teachers and not any("teacher" in stage.makes for _, stage in stages):
        stages = [("load", Load()), *stages]
    for number, (name, stage) in enumerate(stages):
        place = folders.stage_folder(run_folder, number, name)
        context = _context(job, seed, run_folder, place, _key(job, seed, name, stage, candidate))
        candidate = _stage(name, stage, candidate, context, many=len(job.recipe.seeds) > 1)
    _forget(
        run_folder, [link.folder for link in candidate.lineage], job.accelerator.is_main_process
    )
    context = _context(
        job, seed, run_folder, run_folder, fingerprint.of_json([candidate.key, job.code])
    )
    return candidate, context.once(lambda: examination(candidate, context))


def _context(job: _Job, seed: int, run_folder: Path, place: Path, key: str) -> Context:
    return Context(
        recipe=job.recipe,
        data=job.data,
        task=job.task,
        seed=seed,
        folder=place,
        run=run_folder,
        knowledge=job.out.parent / "knowledge",
        key=key,
        accelerator=job.accelerator,
        watch=job.watch,
        resume=job.resume,
    )


def _key(job: _Job, seed: int, name: str, stage: Stage, candidate: Candidate) -> str:
    """Name all that a stage's outcome depends on."""
    recipe = job.recipe
    content: dict[str, Any] = {
        "stage": name,
        "settings": _decisive(stage),
        "seed": seed,
        "data": job.data.facts.fingerprint,
        "task": recipe.task,
        "teacher": [spec.model_dump(mode="json") for spec in recipe.teachers]
        if name in {"teach", "load"}
        else None,
        "student": recipe.student.model_dump(mode="json")
        if recipe.student and "student" in stage.makes
        else None,
        "before": candidate.key,
        "processes": job.accelerator.num_processes,
        "threads": recipe.threads,
        "device": recipe.device,
        "code": job.code,
    }
    return fingerprint.of_json(content)


def _decisive(stage: Stage) -> dict[str, Any]:
    """Take the settings that decide what a stage makes; how often it saves and logs does not."""
    settings = stage.model_dump(mode="json")
    return {
        name: value
        for name, value in settings.items()
        if name not in {"checkpoint_every", "log_every", "workers"}
    }


def _stage(
    name: str, stage: Stage, candidate: Candidate, context: Context, *, many: bool
) -> Candidate:
    seed = f" (seed {context.seed})" if many else ""
    done = candidates.load(context.folder, key=context.key)
    if done is not None:
        context.watch.say(f"{name}{seed}: unchanged, reused")
        return candidate.then(context.folder, done)
    if context.main:
        _clear(context)
    context.accelerator.wait_for_everyone()
    context.watch.say(f"{name}{seed}")
    clock = time.monotonic()
    after = stage.run(candidate, context)
    record = after.lineage[-1].record.model_copy(update={"seconds": time.monotonic() - clock})
    if context.main:
        candidates.save(context.folder, record)
        for leftover in context.folder.rglob("checkpoint"):
            shutil.rmtree(leftover)
    context.accelerator.wait_for_everyone()
    return candidate.then(context.folder, record)


def _clear(context: Context) -> None:
    """Empty a stage's folder, but for the checkpoints of the very same work, if it is to go on."""
    started = context.folder / "started"
    same = started.exists() and started.read_text() == context.key
    if not (same and context.resume):
        if same and any(context.folder.rglob("checkpoint/*.safetensors")):
            context.watch.say("  starting anew; --resume would have gone on from the checkpoint")
        shutil.rmtree(context.folder, ignore_errors=True)
    write_text(started, context.key)


def _forget(run_folder: Path, kept: list[Path], main: bool) -> None:
    """Remove the folders of stages that the recipe no longer has."""
    if main and (run_folder / "stages").is_dir():
        for old in (run_folder / "stages").iterdir():
            if old not in kept:
                shutil.rmtree(old)
