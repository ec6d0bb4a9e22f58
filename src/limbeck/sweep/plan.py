"""What a sweep is to do, checked whole before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, Problem
from limbeck.pipeline.overrides import put_all
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.validate import validate
from limbeck.report.sweep_result import Cost
from limbeck.sweep.sampler import Sampler
from limbeck.sweep.space import Space, size

TRIALS = 20
STUDY, LOCK = "study.db", ".lock"
# They name or judge a run and change nothing of what it makes; profiles were applied before.
NEUTRAL = {"name", "description", "budget", "trackers", "profile", "profiles"}


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do; every worker has the same.

    Attributes:
        content: The recipe as plain data, resolved.
        space: What to choose from.
        costs: What is to be small, beside accuracy that is to be large.
        out: The sweep's folder.
        sampler: Who chooses.
        trials: How many there are to be in all, earlier ones and failed ones included.
        timeout: Seconds after which a worker begins no further trial.
        seed: Of the sampler.
    """

    content: dict[str, Any]
    space: Space
    costs: tuple[Cost, ...]
    out: Path
    sampler: Sampler
    trials: int
    timeout: float | None
    seed: int

    @property
    def recipe(self) -> Recipe:
        """The recipe as it stands, nothing varied."""
        return validate(self.content)

    def folder(self, number: int) -> Path:
        """Give the run folder of a trial."""
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
) -> Plan:
    """Make a plan, once every choice was held against the recipe.

    Args:
        recipe: The recipe, resolved.
        space: What to choose from.
        costs: What is to be small.
        out: The sweep's folder.
        sampler: Who chooses.
        trials: How many in all; 20 if not given, and with `grid` as many as there are.
        timeout: Seconds after which no further trial begins.
        seed: Of the sampler.

    Raises:
        InputError: A path or a choice does not fit the recipe, the recipe ships no student, a grid
            has no end, or the folder holds something else: all problems at once.
    """
    content = recipe.model_dump(mode="json")
    # Questions choose nothing and look at the test samples: `limbeck evaluate` asks the chosen one.
    content["stages"] = [stage for stage in content["stages"] if "evaluate" not in stage]
    count = size(space)
    problems = [*_choices(content, space), *_ships(recipe), *_folder(out)]
    if sampler is Sampler.grid and count is None:
        fix = "Give every range of fractions a step, or choices."
        problems.append(Problem("--sampler", "grid", "a space that can be listed", fix))
    if problems:
        raise InputError(*problems)
    asked = trials or (count if sampler is Sampler.grid and count else TRIALS)
    return Plan(content, space, costs, out, sampler, asked, timeout, seed)


def settled(content: Mapping[str, Any], settings: Mapping[str, Any]) -> Recipe:
    """Give the recipe with some settings.

    Raises:
        InputError: They lead nowhere, or the recipe is not valid with them.
    """
    changed = copy.deepcopy(dict(content))
    put_all(changed, settings, where="--vary")
    return validate(changed)


def _choices(content: Mapping[str, Any], space: Space) -> list[Problem]:
    """Try every choice by itself, the rest of the recipe as it stands."""
    problems: list[Problem] = []
    for path, domain in space.items():
        if path.split(".")[0] in NEUTRAL:
            allowed = "a path that changes what is made"
            problems.append(Problem(f"--vary {path}", str(domain), allowed, "Use --set."))
            continue
        for value in domain.ends():
            try:
                settled(content, {path: value})
            except InputError as error:
                named = (_named(problem, path, value) for problem in error.problems)
                problems += [problem for problem in named if problem not in problems]
    return problems


def _named(problem: Problem, path: str, value: object) -> Problem:
    """Say which choice brought a problem about, unless it says so itself."""
    if problem.where.startswith("--vary") or problem.where == path:
        return problem
    where = f"--vary {path}={value}: {problem.where}"
    return Problem(where, problem.given, problem.allowed, problem.fix)


def _ships(recipe: Recipe) -> list[Problem]:
    stages = [stage for stage in recipe.stages if "evaluate" not in stage]
    last = next(iter(stages[-1])) if stages else "nothing"
    if last == "export":
        return []
    return [Problem("stages", f"{last} at the end", "an `export` stage: its file is measured")]


def _folder(out: Path) -> list[Problem]:
    """Refuse a folder that holds something which is not a sweep."""
    allowed = "an empty folder, a new one, or one that holds a sweep of limbeck"
    try:
        strange = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Problem("--out", str(out), allowed, f"{error.strerror}.")]
    if strange and not (out / STUDY).is_file():
        return [Problem("--out", str(out), allowed, f"It holds {strange[0]}.")]
    return []
