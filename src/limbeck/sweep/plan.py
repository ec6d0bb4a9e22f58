"""Objectives of a sweep: the task's score is optimised, the chosen costs are minimised."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, LimbeckError, Problem, did_you_mean, gathering
from limbeck.evaluate.pareto import Direction
from limbeck.pipeline.load_recipe import put_all
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.run_folder import check_folder
from limbeck.pipeline.stages.distill import Distill
from limbeck.pipeline.validate import validate
from limbeck.report.result import Link, RunResult
from limbeck.report.sweep import COSTS, Cost, Figures
from limbeck.report.verdict import p50
from limbeck.sweep.sampler import Sampler, Selected
from limbeck.sweep.space import Space, size


def costs_of(text: str) -> tuple[Cost, ...]:
    """Parse `--minimize`: the costs besides the task's score, in the order given.

    Raises:
        InputError: A cost is unknown or repeated.

    Example:
        >>> costs_of("size,latency")
        ('size', 'latency')
    """
    words = [word.strip() for word in text.split(",")]
    allowed = list(COSTS)
    problems = [
        Problem("--minimize", word, ", ".join(allowed), did_you_mean(word, allowed))
        for word in words
        if word not in allowed
    ]
    if not problems and len(set(words)) < len(words):
        problems.append(Problem("--minimize", text, "each cost once"))
    if problems:
        raise InputError(*problems)
    return tuple(cost for word in words for cost in COSTS if cost == word)


def directions(costs: Sequence[Cost]) -> list[Direction]:
    """Return the direction of each objective: quality is maximised, every cost minimised."""
    down: Direction = "minimize"
    return ["maximize", *(down for _ in costs)]


def values(figures: Figures, costs: Sequence[Cost]) -> list[float]:
    """Return the objectives of a trial's figures: quality, then the costs.

    Raises:
        LimbeckError: One was not measured, or is not a finite number.
    """
    found = {name: getattr(figures, name) for name in ("quality", *costs)}
    for name, value in found.items():
        if value is None or not math.isfinite(value):
            raise LimbeckError(f"{name} was not measured (found: {value})")
    return [float(value) for value in found.values()]


def figures_of(result: RunResult, select: Selected = Selected.student) -> Figures:
    """Return the figures of a run that select a trial, none of them from the test samples.

    Costs are those of the shipped student.

    Raises:
        LimbeckError: The latency was not measured, or there is no baseline to select by.
    """
    shipped, teacher = result.shipped, result.teacher
    scored = shipped if select is Selected.student else result.baseline
    if scored is None:
        raise LimbeckError("--select baseline: the run trained no label-only baseline")
    first = shipped.measured[0]
    latency = p50(first)
    if latency is None:
        raise LimbeckError("the latency on one thread was not measured")
    return Figures(
        metric=result.metric,
        score=_validated(scored),
        teacher_score=None if teacher is None else _validated(teacher),
        size=first.cost.size_bytes,
        latency=latency,
        flops=first.cost.flops,
        parameters=first.cost.parameters,
        memory=first.cost.peak_memory_bytes,
        energy=first.cost.energy.joules if first.cost.energy else None,
    )


def _validated(link: Link) -> float:
    return math.fsum(one.validation_score for one in link.measured) / len(link.measured)


TRIALS = 20
STUDY, LOCK = "study.db", ".lock"
# They name or judge a run and do not change its artefacts; profiles were applied before.
NEUTRAL = {"name", "description", "budget", "trackers", "profile", "profiles"}


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep, the same for every worker.

    Attributes:
        content: The recipe as plain data, resolved.
        space: The search space.
        costs: The costs to minimise, beside the optimised score.
        out: The sweep's folder.
        sampler: The sampler.
        trials: The total number of trials, including earlier and failed ones.
        timeout: Seconds after which a worker begins no further trial.
        seed: The sampler's seed.
        select: The model whose validation score is optimised.
    """

    content: dict[str, Any]
    space: Space
    costs: tuple[Cost, ...]
    out: Path
    sampler: Sampler
    trials: int
    timeout: float | None
    seed: int
    select: Selected = Selected.student

    @property
    def recipe(self) -> Recipe:
        """Return the recipe without varied settings."""
        return validate(self.content)

    def folder(self, number: int) -> Path:
        """Return the run folder of a trial."""
        return self.out / "trials" / str(number)


def plan(
    recipe: Recipe,
    space: Space,
    *,
    costs: tuple[Cost, ...],
    out: Path,
    sampler: Sampler = Sampler.tpe,
    trials: int | None = None,
    timeout: float | None = None,
    seed: int = 0,
    select: Selected = Selected.student,
) -> Plan:
    """Build a plan, with every choice validated against the recipe.

    The number of trials is 20 if it is not given, or that of all settings with `grid`.

    Raises:
        InputError: A path or a choice does not fit the recipe, the recipe exports no student, a
            grid is infinite, or the folder holds something else; every problem is listed.
    """
    content = recipe.model_dump(mode="json")
    # Evaluations select nothing and use the test samples: run `limbeck evaluate` on the chosen one.
    stages = [stage for stage in content["stages"] if "evaluate" not in stage]
    content["stages"] = stages
    problems = _check_choices(content, space)
    if select is Selected.baseline and not _has_baseline(recipe):
        allowed = "student, without a `distill` stage that trains a baseline"
        problems.append(Problem("--select", select.value, allowed))
    last = next(iter(stages[-1])) if stages else "nothing"
    if last != "export":
        allowed = "an `export` stage: its file is measured"
        problems.append(Problem("stages", f"{last} at the end", allowed))
    with gathering(problems):
        check_folder(out, mark=STUDY, kind="sweep", ignored=lambda name: name.startswith("."))
    count = size(space) if sampler is Sampler.grid else None
    if sampler is Sampler.grid and count is None:
        fix = "Give every range of fractions a step, or choices."
        problems.append(Problem("--sampler", "grid", "a space that can be listed", fix))
    if problems:
        raise InputError(*problems)
    return Plan(
        content, space, costs, out, sampler, trials or count or TRIALS, timeout, seed, select
    )


def _has_baseline(recipe: Recipe) -> bool:
    stages = [stage for _, stage in recipe.parsed_stages() if isinstance(stage, Distill)]
    return any(stage.baseline and stage.terms().needs_teacher for stage in stages)


def with_settings(content: Mapping[str, Any], settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe with some settings applied.

    Raises:
        InputError: A path does not exist, or the recipe is invalid with the settings.
    """
    changed = copy.deepcopy(dict(content))
    put_all(changed, settings, where="--vary")
    return validate(changed)


def _check_choices(content: Mapping[str, Any], space: Space) -> list[Problem]:
    """Validate every choice by itself, with the rest of the recipe unchanged."""
    problems: list[Problem] = []
    for path, domain in space.items():
        if path.split(".")[0] in NEUTRAL:
            allowed = "a path that changes the artefacts"
            problems.append(Problem(f"--vary {path}", str(domain), allowed, "Use --set."))
            continue
        for value in domain.ends():
            try:
                with_settings(content, {path: value})
            except InputError as error:
                named = (_named(problem, path, value) for problem in error.problems)
                problems += [problem for problem in named if problem not in problems]
    return problems


def _named(problem: Problem, path: str, value: object) -> Problem:
    """Add the choice that caused a problem, unless the problem already names it."""
    if problem.where.startswith("--vary"):
        return problem
    return replace(problem, where=f"--vary {path}={value}: {problem.where}")
