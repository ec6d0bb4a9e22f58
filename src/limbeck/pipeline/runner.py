"""Execution of a recipe: all seeds and stages, the test results, and the outputs."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import yaml

from limbeck.core import fingerprint, user_code
from limbeck.core.files import write_text
from limbeck.errors import InputError, Problem, gathered, gathering
from limbeck.evaluate.hardware import describe
from limbeck.pipeline import machine, reuse
from limbeck.pipeline import run_folder as folders
from limbeck.pipeline.artefact_results import ArtefactResults, artefact_results
from limbeck.pipeline.candidate import Candidate, Record, Role
from limbeck.pipeline.context import Context
from limbeck.pipeline.dry_run import DryRun, dry_run
from limbeck.pipeline.evaluation import evaluation
from limbeck.pipeline.progress import NullReporter, ProgressReporter
from limbeck.pipeline.provenance import stop_if_forbidden
from limbeck.pipeline.publish import publish, write_report
from limbeck.pipeline.results import assemble, input_notes
from limbeck.pipeline.stage_order import loads_teacher
from limbeck.pipeline.stages.evaluate import Evaluate
from limbeck.pipeline.stages.load import Load
from limbeck.pipeline.statements import with_statements
from limbeck.pipeline.teacher_checks import chance_notes, check_teacher
from limbeck.pipeline.trust import named_code
from limbeck.pipeline.validate import check_code, model_located
from limbeck.tasks import TASKS

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.data.load import Data
    from limbeck.evaluate.evaluation import Evaluation
    from limbeck.export.predictor import Predictions
    from limbeck.pipeline.recipe import Recipe
    from limbeck.pipeline.stage import Stage
    from limbeck.report.result import RunResult


def run(
    recipe: Recipe, *, out: Path, resume: bool = False, watch: ProgressReporter | None = None
) -> RunResult:
    """Run a recipe and write its folder.

    A stage whose settings, inputs and code equal those of an earlier run in the folder is reused; a
    changed one, and all after it, runs again.

    Args:
        recipe: The resolved recipe.
        out: The run folder.
        resume: Whether to resume an interrupted training from its checkpoint.
        watch: The progress reporter.

    Raises:
        InputError: Data or models are missing or do not fit, or the folder contains something else.
        LimbeckError: A file could not be written, a loss became NaN, or another process holds the
            folder.
        KeyboardInterrupt: The user interrupted the run; completed work is saved.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    folders.check(out)
    with machine.threads(recipe.threads):
        accelerator = machine.accelerator_of(recipe, out)
        if not accelerator.is_main_process:
            return Work(recipe, out, accelerator, NullReporter(), resume).result(started, clock)
        with folders.lock(out):
            folders.cleanup(out)
            work = Work(recipe, out, accelerator, watch or NullReporter(), resume)
            return work.result(started, clock)


@dataclass(frozen=True)
class _Planned:
    """One stage of one seed; its inputs are known when the stage before it is done."""

    number: int
    name: str
    stage: Stage
    folder: Path


class Work:
    """A run in progress, with the state that all seeds share."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        accelerator: Accelerator,
        watch: ProgressReporter,
        resume: bool,
    ) -> None:
        self.recipe, self.out, self.resume = recipe, out, resume
        self.accelerator, self.watch = accelerator, watch
        self.stages = check_code(recipe)
        # File access is traced only for recipes with user code, since it takes time.
        self.own_code = bool(named_code(recipe))
        self.tested: dict[Role, Predictions] = {}
        with accelerator.main_process_first():
            _, self.data = cast("tuple[None, Data]", gathered([self._find_files, self._load]))
            self.recipe = with_statements(recipe, self.data)
        self.task = TASKS.load(recipe.task).of(self.data)
        self.inputs = reuse.Inputs(lambda spec: self._context(0).build(spec, seed=0))
        if loads_teacher(recipe, self.stages):
            self.stages = [("load", Load()), *self.stages]

    def result(self, started: datetime, clock: float) -> RunResult:
        """Run what is not done yet, and write the results."""
        if self._all_done():
            stop_if_forbidden(self.recipe, self.data.facts)
        else:
            self.dry_run()
        for note in input_notes(self.recipe, self.data):
            self.watch.log(f"note: {note}")
        self._mark()
        finished = [self._seed(seed) for seed in self.recipe.seeds]
        lineages = [candidate for candidate, _ in finished]
        result = assemble(
            recipe=self.recipe,
            data=self.data,
            lineages=lineages,
            seeds=[results for _, results in finished],
            started=started,
            seconds=time.monotonic() - clock,
            command=shlex.join(["limbeck", *sys.argv[1:]]),
        )
        # Before the evaluations, whose failure must not lose the training and its measurements.
        self._publish(result, lineages)
        evaluations = [stage for _, stage in self.stages if isinstance(stage, Evaluate)]
        if evaluations:
            result = self._evaluated(result, lineages[0], evaluations[-1])
            update = {"seconds": time.monotonic() - clock}
            environment = result.environment.model_copy(update=update)
            result = result.model_copy(update={"environment": environment})
            self._publish(result, lineages)
        self.accelerator.end_training()
        return result

    def _publish(self, result: RunResult, lineages: list[Candidate]) -> None:
        if self.accelerator.is_main_process:
            publish(result, out=self.out, lineages=lineages, data=self.data, task=self.task)
        self.watch.log(f"report: {self.out / 'report.html'}")

    def _evaluated(self, result: RunResult, candidate: Candidate, stage: Evaluate) -> RunResult:

        def ended(found: Evaluation) -> None:
            write_report(result.model_copy(update={"evaluation": found}), out=self.out)

        context = self._context(self.recipe.seeds[0])
        found = context.on_main_process(
            lambda: evaluation(candidate, context, stage, result=result, ended=ended)
        )
        return result.model_copy(update={"evaluation": found})

    def dry_run(self) -> DryRun:
        """Check everything that could fail, without training, and return the built models.

        Raises:
            InputError: The run would fail; all problems at once.
        """
        _, trial = gathered(
            [
                lambda: stop_if_forbidden(self.recipe, self.data.facts),
                lambda: dry_run(self._context(self.recipe.seeds[0])),
            ]
        )
        return cast("DryRun", trial)

    def unchanged(self, out: Path) -> dict[int, list[str]]:
        """Return per seed the stages that a run in a folder would reuse, without writing."""
        self.out = out
        return {
            seed: [one.name for one, _ in self._reused(seed, reuse.peek)]
            for seed in self.recipe.seeds
        }

    def _all_done(self) -> bool:
        try:
            return all(
                len(list(self._reused(seed, reuse.finished))) == len(self.stages)
                for seed in self.recipe.seeds
            )
        except InputError:  # a model that cannot be built: reported by the dry run
            return False

    def _reused(
        self, seed: int, find: Callable[[Context], Record | None]
    ) -> Iterator[tuple[_Planned, Record]]:
        """Yield a seed's leading stages that were done before, with their records."""
        candidate = Candidate()
        for planned in self._plan(seed):
            record = find(self._ready(planned, candidate, seed))
            if record is None:
                return
            candidate = candidate.append(planned.folder, record)
            yield planned, record

    def _find_files(self) -> None:
        """Check that the models' weights exist, to report missing weights and data together."""
        from limbeck.models.checkpoint import find

        named = [("student", self.recipe.student)] if self.recipe.student else []
        named += zip(self.recipe.teacher_paths, self.recipe.teachers, strict=True)
        problems: list[Problem] = []
        for where, spec in named:
            if spec.checkpoint is not None:
                with gathering(problems), model_located(where):
                    find(spec.checkpoint)
        if problems:
            raise InputError(*problems)

    def _load(self) -> Data:
        from limbeck.data.load import load

        spec = self.recipe.data
        self.watch.log(f"Reading {spec.source} {spec.name}".rstrip())
        return load(spec, workdir=self.out / folders.DATA)

    def _mark(self) -> None:
        """Mark the folder as a run's, so that it is kept from here on."""
        if self.accelerator.is_main_process:
            content = self.recipe.model_dump(mode="json")
            write_text(self.out / folders.MARK, yaml.safe_dump(content, sort_keys=False))
        if self.recipe.trackers:
            self.accelerator.init_trackers(self.recipe.name)

    def _plan(self, seed: int) -> Iterator[_Planned]:
        for number, (name, stage) in enumerate(self.stages):
            folder = folders.stage_folder(self.out, self.recipe.seeds, seed, number, name, stage)
            yield _Planned(number + 1, name, stage, folder)

    def _context(self, seed: int) -> Context:
        run = folders.seed_folder(self.out, self.recipe.seeds, seed)
        return Context(
            recipe=self.recipe,
            data=self.data,
            task=self.task,
            seed=seed,
            folder=run,
            run=run,
            teacher_cache=self.out.parent / "knowledge",
            key="",
            accelerator=self.accelerator,
            progress=self.watch,
            resume=self.resume,
            # Only the first seed's student is evaluated.
            tested=self.tested if seed == self.recipe.seeds[0] else {},
        )

    def _shared(self, seed: int) -> Context:
        """Return the context of a stage that all seeds share, in the first seed's folder."""
        return replace(self._context(self.recipe.seeds[0]), seed=seed)

    def _ready(self, planned: _Planned, candidate: Candidate, seed: int) -> Context:
        """Return the context of a stage, with its folder and the hash of its inputs."""
        shared = planned.stage.shared_seed()
        context = self._context(seed) if shared is None else self._shared(shared)
        key = reuse.key_of(planned.name, planned.stage, candidate, context, inputs=self.inputs)
        return replace(context, folder=planned.folder, key=key)

    def until(
        self, seed: int, found: Callable[[Stage], bool]
    ) -> Iterator[tuple[str, Stage, Candidate, Context]]:
        """Run the stages before the first that fits; yield it with its input and its context.

        Args:
            seed: The seed.
            found: Whether a stage fits.
        """
        candidate = Candidate()
        self._mark()
        for planned in self._plan(seed):
            if found(planned.stage):
                context = self._ready(planned, candidate, seed)
                yield planned.name, planned.stage, candidate, context
                return
            candidate = self._stage(planned, candidate, seed)

    def _seed(self, seed: int) -> tuple[Candidate, ArtefactResults]:
        candidate = Candidate()
        for planned in self._plan(seed):
            candidate = self._stage(planned, candidate, seed)
        context = self._context(seed)
        if context.main:
            kept = [link.folder for link in candidate.lineage]
            first = seed == self.recipe.seeds[0]
            folders.prune_stale(context.run, self.recipe.seeds if first else (), kept)
        # With the machine, on which latencies depend.
        inputs = [candidate.key, self.inputs.code, describe().model_dump(mode="json")]
        context = replace(context, key=fingerprint.of_json(inputs))
        return candidate, context.on_main_process(lambda: artefact_results(candidate, context))

    def _stage(self, planned: _Planned, candidate: Candidate, seed: int) -> Candidate:
        context = self._ready(planned, candidate, seed)
        label = f"stage {planned.number}/{len(self.stages)} {planned.name}, seed {seed}"
        record = reuse.finished(context)
        # No process may clear the folder while another still reads it.
        self.accelerator.wait_for_everyone()
        if record is not None:
            self.watch.log(f"{label}: unchanged, reused")
            candidate = candidate.append(planned.folder, record)
            check_teacher(candidate, context)
            return candidate
        if context.main:
            reuse.begin(context)
        self.accelerator.wait_for_everyone()
        self.watch.begin(label)
        clock = time.monotonic()
        with user_code.reads() as read:
            after = planned.stage.run(candidate, context)
        seconds = time.monotonic() - clock
        written = (self.out, context.teacher_cache)
        hashed = user_code.hash_reads(read, but=written) if self.own_code else {}
        update = {"seconds": seconds, "read": hashed}
        record = after.lineage[-1].record.model_copy(update=update)
        if context.main:
            reuse.finish(context, record)
        scores = [f"{one.label} {one.validation_score:.4f}" for one in record.artefacts]
        scored = (
            f", validation {context.task.scores[0].metric.name}: {', '.join(scores)}"
            if scores
            else ""
        )
        self.watch.log(f"{label}: done in {seconds:.1f} s{scored}")
        self.accelerator.wait_for_everyone()
        candidate = candidate.append(planned.folder, record)
        for note in chance_notes(record):
            self.watch.log(note)
        check_teacher(candidate, context)
        return candidate
