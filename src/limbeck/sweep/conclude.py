"""Latency measurement of all trials in turn, so that disturbances affect all alike."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from limbeck.core.files import replacing_folder, write_json, write_text
from limbeck.data.load import load
from limbeck.errors import LimbeckError
from limbeck.evaluate.hardware import describe
from limbeck.evaluate.measure import Call, latencies
from limbeck.evaluate.pareto import knee, pareto
from limbeck.export.predictor import OnnxPredictor
from limbeck.pipeline import run_folder as folders
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.results import git_commit, versions
from limbeck.report.load import load_run
from limbeck.report.result import Environment
from limbeck.report.sweep import Chosen, Cost, SweepResult, Trial, View, render_sweep
from limbeck.sweep.budget import Limits, choose
from limbeck.sweep.plan import Plan, directions, settled, values
from limbeck.tasks import Batch

TOGETHER = 2e9
"""The most bytes of files loaded at once for timing."""


def timed(trials: Mapping[int, tuple[Recipe, Path]]) -> dict[int, float] | None:
    """Measure the latency of several students at batch 1 on one thread, in turn.

    Args:
        trials: Each trial's recipe and run folder, by number.

    Returns:
        The median of each in milliseconds; `None` if they are too large to be loaded together.
    """
    files = {number: run / folders.STUDENT / "model.onnx" for number, (_, run) in trials.items()}
    if not files or sum(file.stat().st_size for file in files.values()) > TOGETHER:
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
    seconds = max(2.0, 0.1 * len(calls))
    found = latencies(calls, threads=1, seconds=seconds)
    return {int(number): latency.p50 for number, latency in found.items()}


CHOSEN = "chosen"
IN_TURN = (
    "Latencies were taken once more when the sweep ended, all students in turn in one process, so "
    "that a busy machine is unfair to none."
)
GRAIN, MEASURED = 1.05, {"latency", "memory", "energy"}
"""The ratio between the steps to which measured costs are rounded: smaller gaps are noise."""

APART = "Latencies were taken in each trial's own run: the files are too large to be timed in turn."
VALIDATED = (
    "Accuracy is that on the validation samples, which have chosen: of the best of many it says "
    "too much. The test samples choose nothing."
)
COMPARED = "For the front, latency, memory and energy are compared in steps of 5 %."
ONE_SEED = "Each trial has one seed: differences of a few samples may be luck."


def conclude(plan: Plan, trials: Sequence[Trial], limits: Limits | None) -> SweepResult:
    """Measure the latencies in turn, compute the front, apply the budget, and write the result.

    The best trial within the budget is copied to `chosen/`; if none meets it, an earlier choice is
    removed.

    Args:
        plan: The plan of the sweep.
        trials: Its trials.
        limits: The budget, if there is one.

    Raises:
        LimbeckError: No trial finished.
        WriteError: The folder cannot be written to.
    """
    done = [trial for trial in trials if trial.state == "done"]
    if not done:
        raise LimbeckError(_all_failed(trials))
    done, note = _timed(plan, done)
    ended = {trial.number: trial for trial in _on_front(done, plan.costs)}
    shown = tuple(ended.get(trial.number, trial) for trial in trials)
    chosen = None if limits is None else _chosen(plan, list(ended.values()), limits)
    recipe = plan.recipe
    result = SweepResult(
        name=recipe.name,
        task=recipe.task,
        space={path: str(domain) for path, domain in plan.space.items()},
        costs=plan.costs,
        sampler=plan.sampler.value,
        trials=shown,
        views=tuple(_view(done, cost) for cost in plan.costs),
        chosen=chosen,
        environment=_environment(shown),
        notes=(note, COMPARED, VALIDATED, *((ONE_SEED,) if len(recipe.seeds) == 1 else ())),
    )
    _write(plan, result)
    return result


def _all_failed(trials: Sequence[Trial]) -> str:
    failed = [trial for trial in trials if trial.state == "failed"]
    if not failed:
        return "No trial has come to its end yet; the same command goes on."
    first = failed[0]
    return f"All {len(failed)} trials failed. Trial {first.number}: {first.reason}"


def _timed(plan: Plan, done: Sequence[Trial]) -> tuple[list[Trial], str]:
    places = {
        trial.number: (settled(plan.content, trial.settings), plan.folder(trial.number))
        for trial in done
    }
    found = timed(places)
    if found is None:
        return list(done), APART
    return [_with_latency(trial, found[trial.number]) for trial in done], IN_TURN


def _with_latency(trial: Trial, latency: float) -> Trial:
    if trial.figures is None:  # finished trials have figures
        return trial
    figures = trial.figures.model_copy(update={"latency": latency})
    return trial.model_copy(update={"figures": figures})


def _points(done: Sequence[Trial], costs: Sequence[Cost]) -> list[list[float]]:
    """Return accuracy and costs of each trial, rounded to distinguishable steps."""
    found = [values(trial.figures, costs) for trial in done if trial.figures is not None]
    return [
        [accuracy, *(_grained(cost, value) for cost, value in zip(costs, paid, strict=True))]
        for accuracy, *paid in found
    ]


def _grained(cost: Cost, value: float) -> float:
    if cost not in MEASURED or value <= 0:
        return value
    return float(GRAIN ** round(math.log(value, GRAIN)))


def _on_front(done: Sequence[Trial], costs: Sequence[Cost]) -> list[Trial]:
    mask = pareto(_points(done, costs), directions(costs))
    return [
        trial.model_copy(update={"front": bool(good)})
        for trial, good in zip(done, mask, strict=True)
    ]


def _view(done: Sequence[Trial], cost: Cost) -> View:
    """Compute the front of accuracy and one cost, by ascending cost."""
    points, ways = _points(done, (cost,)), directions((cost,))
    places = [place for place, good in enumerate(pareto(points, ways)) if good]
    places.sort(key=lambda place: points[place][1])
    bend = knee([points[place] for place in places], ways)
    numbers = tuple(done[place].number for place in places)
    return View(cost=cost, front=numbers, knee=None if bend is None else numbers[bend])


def _chosen(plan: Plan, done: Sequence[Trial], limits: Limits) -> Chosen:
    trial, checks = choose(done, limits)
    fits = all(check.met for check in checks)
    target = plan.out / CHOSEN
    if not fits:
        shutil.rmtree(target, ignore_errors=True)
        return Chosen(number=trial.number, fits=False, checks=checks, test=None)
    run = plan.folder(trial.number)
    _copy(run / folders.STUDENT, target)
    # The only use of the test samples: nothing is selected after it.
    test = load_run(run).shipped.measured[0].accuracy
    return Chosen(number=trial.number, fits=True, checks=checks, test=test)


def _copy(student: Path, target: Path) -> None:
    """Copy a student folder; the old one is replaced when the new one is complete."""
    with replacing_folder(target) as made:
        shutil.copytree(student, made, dirs_exist_ok=True)


def _environment(trials: Sequence[Trial]) -> Environment:
    return Environment(
        hardware=describe(),
        versions=versions(),
        git_commit=git_commit(),
        command=shlex.join(["limbeck", *sys.argv[1:]]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=math.fsum(trial.seconds for trial in trials),
    )


def _write(plan: Plan, result: SweepResult) -> None:
    write_json(plan.out / "sweep.json", result.model_dump(mode="json"))
    write_text(plan.out / "sweep.html", render_sweep(result))
