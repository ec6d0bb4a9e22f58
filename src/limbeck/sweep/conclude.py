"""End of a sweep: latencies in turn, the Pareto front, the budget, and the written result."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from limbeck.core.files import replacing_folder, write_json, write_text
from limbeck.core.measurement import Metric
from limbeck.data.load import load
from limbeck.errors import LimbeckError
from limbeck.evaluate.hardware import describe
from limbeck.evaluate.intervals import summarize_folds
from limbeck.evaluate.measure import Call, latencies
from limbeck.evaluate.pareto import knee, pareto
from limbeck.export.predictor import OnnxPredictor
from limbeck.pipeline import run_folder as folders
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.results import git_commit, versions
from limbeck.report.load import load_run
from limbeck.report.result import Environment
from limbeck.report.sweep import (
    Chosen,
    Cost,
    CrossValidation,
    SweepResult,
    Trial,
    View,
    render_sweep,
)
from limbeck.sweep.budget import Limits, choose
from limbeck.sweep.plan import Plan, directions, values, with_settings
from limbeck.sweep.sampler import Selected
from limbeck.sweep.space import key
from limbeck.tasks import Batch

MOST_BYTES = 2e9
"""The most bytes of files loaded at once for timing."""

CHOSEN, FOLD = "chosen", "data.split.fold"
STEP, MEASURED = 1.05, {"latency", "memory", "energy"}
"""The ratio between the steps to which measured costs are rounded: smaller gaps are noise."""

TIMED_IN_TURN = (
    "Latencies were taken once more when the sweep ended, all students in turn in one process, so "
    "that a busy machine affects all alike."
)
TIMED_APART = (
    "Latencies were taken in each trial's own run: the files are too large to be timed in turn."
)
COMPARED = "For the front, latency, memory and energy are compared in steps of 5 %."
VALIDATED = (
    "The score is that on the validation samples, which selected the trial: for the best of many "
    "trials it is biased upwards. The test samples select nothing."
)
ONE_SEED = "Each trial has one seed: differences of a few samples may be luck."


def timed(trials: Mapping[int, tuple[Recipe, Path]]) -> dict[int, float] | None:
    """Measure the latency of several students at batch 1 on one thread, in turn.

    Returns:
        The median of each in milliseconds; `None` if they are too large to be loaded together.
    """
    files = {number: run / folders.STUDENT / "model.onnx" for number, (_, run) in trials.items()}
    if not files or sum(file.stat().st_size for file in files.values()) > MOST_BYTES:
        return None
    examples: dict[str, Batch] = {}
    calls: dict[str, Call] = {}
    for number, (recipe, run) in trials.items():
        data = recipe.data.model_dump_json()
        if data not in examples:
            loaded = load(recipe.data, workdir=run / folders.DATA)
            examples[data] = loaded.validation.__getitems__([0])
        predictor = OnnxPredictor(files[number], threads=1)
        calls[str(number)] = partial(predictor.predict, predictor.feeds(examples[data]))
    found = latencies(calls, threads=1, seconds=max(2.0, 0.1 * len(calls)))
    return {int(number): latency.p50 for number, latency in found.items()}


def conclude(plan: Plan, trials: Sequence[Trial], limits: Limits | None) -> SweepResult:
    """Measure the latencies in turn, compute the front, apply the budget, and write the result.

    The best trial within the budget is copied to `chosen/`; if none meets it, an earlier choice is
    removed.

    Raises:
        LimbeckError: No trial finished.
        WriteError: The folder cannot be written to.
    """
    done = [trial for trial in trials if trial.state == "done"]
    if not done:
        failed = [trial for trial in trials if trial.state == "failed"]
        if not failed:
            raise LimbeckError("No trial has come to its end yet; the same command continues.")
        text = f"Trial {failed[0].number}: {failed[0].reason}"
        raise LimbeckError(f"All {len(failed)} trials failed. {text}")
    done, note = _timed(plan, done)
    mask = pareto(_points(done, plan.costs), directions(plan.costs))
    done = [
        trial.model_copy(update={"front": bool(good)})
        for trial, good in zip(done, mask, strict=True)
    ]
    ended = {trial.number: trial for trial in done}
    recipe = plan.recipe
    result = SweepResult(
        name=recipe.name,
        task=recipe.task,
        space={path: str(domain) for path, domain in plan.space.items()},
        costs=plan.costs,
        sampler=plan.sampler.value,
        trials=tuple(ended.get(trial.number, trial) for trial in trials),
        views=tuple(_view(done, cost) for cost in plan.costs),
        chosen=None if limits is None else _chosen(plan, done, limits),
        environment=Environment(
            hardware=describe(),
            versions=versions(),
            git_commit=git_commit(),
            command=shlex.join(["limbeck", *sys.argv[1:]]),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=math.fsum(trial.seconds for trial in trials),
        ),
        cross_validation=_cross_validation(plan, done),
        notes=(
            note,
            *_selected(plan),
            COMPARED,
            VALIDATED,
            *((ONE_SEED,) if len(recipe.seeds) == 1 else ()),
        ),
    )
    write_json(plan.out / "sweep.json", result.model_dump(mode="json"))
    write_text(plan.out / "sweep.html", render_sweep(result))
    return result


def _selected(plan: Plan) -> Iterator[str]:
    """Yield a note if another model's score than the shipped student's was optimised."""
    if plan.select is Selected.baseline:
        yield (
            "The score is that of the label-only baseline (`--select baseline`); costs are those "
            "of the student."
        )


def _cross_validation(plan: Plan, done: Sequence[Trial]) -> tuple[CrossValidation, ...]:
    """Summarize the scores over folds, for each choice of the other settings."""
    split = plan.recipe.data.split
    if FOLD not in plan.space or split is None or split.folds is None:
        return ()
    trials: dict[str, dict[int, Trial]] = {}
    for trial in done:
        others = {path: value for path, value in trial.settings.items() if path != FOLD}
        trials.setdefault(key(others), {}).setdefault(trial.settings[FOLD], trial)
    found = []
    for of_fold in trials.values():
        own = [of_fold[fold] for fold in sorted(of_fold)]
        scores = [one.figures.score for one in own if one.figures is not None]
        summarized = partial(summarize_folds, folds=split.folds, bounds=_metric(own).bounds)
        tests = None
        if len(plan.space) == 1:
            runs = [load_run(plan.folder(one.number)) for one in own]
            tests = summarized([run.shipped.score.mean for run in runs])
        found.append(
            CrossValidation(
                settings={k: v for k, v in own[0].settings.items() if k != FOLD},
                folds=split.folds,
                done=tuple(sorted(of_fold)),
                validation=summarized(scores),
                test=tests,
            )
        )
    return tuple(found)


def _timed(plan: Plan, done: Sequence[Trial]) -> tuple[list[Trial], str]:
    found = timed(
        {
            trial.number: (with_settings(plan.content, trial.settings), plan.folder(trial.number))
            for trial in done
        }
    )
    if found is None:
        return list(done), TIMED_APART
    return [
        trial.model_copy(
            update={"figures": trial.figures.model_copy(update={"latency": found[trial.number]})}
        )
        for trial in done
        if trial.figures is not None  # finished trials have figures
    ], TIMED_IN_TURN


def _metric(done: Sequence[Trial]) -> Metric:
    return next(trial.figures.metric for trial in done if trial.figures is not None)


def _points(done: Sequence[Trial], costs: Sequence[Cost]) -> list[list[float]]:
    """Return quality and costs of each trial, rounded to distinguishable steps."""
    found = [values(trial.figures, costs) for trial in done if trial.figures is not None]
    return [
        [quality, *(_rounded(cost, value) for cost, value in zip(costs, paid, strict=True))]
        for quality, *paid in found
    ]


def _rounded(cost: Cost, value: float) -> float:
    if cost not in MEASURED or value <= 0:
        return value
    return float(STEP ** round(math.log(value, STEP)))


def _view(done: Sequence[Trial], cost: Cost) -> View:
    points, objectives = _points(done, (cost,)), directions((cost,))
    places = [place for place, good in enumerate(pareto(points, objectives)) if good]
    places.sort(key=lambda place: points[place][1])
    bend = knee([points[place] for place in places], objectives)
    numbers = tuple(done[place].number for place in places)
    return View(cost=cost, front=numbers, knee=None if bend is None else numbers[bend])


def _chosen(plan: Plan, done: Sequence[Trial], limits: Limits) -> Chosen:
    trial, checks = choose(done, limits)
    fits = all(check.met for check in checks)
    target, test = plan.out / CHOSEN, None
    if fits:
        run = plan.folder(trial.number)
        with replacing_folder(target) as copy:
            shutil.copytree(run / folders.STUDENT, copy, dirs_exist_ok=True)
        # The only use of the test samples: nothing is selected after it.
        test = load_run(run).shipped.measured[0].score
    else:
        shutil.rmtree(target, ignore_errors=True)
    return Chosen(number=trial.number, fits=fits, checks=checks, test=test)
