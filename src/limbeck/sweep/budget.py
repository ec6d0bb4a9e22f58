"""The budget of the student, and the selection of the best trial within it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, ValidationError

from limbeck.errors import InputError, Problem
from limbeck.pipeline.load_recipe import parse
from limbeck.pipeline.recipe import Budget, Positive
from limbeck.pipeline.validate import of_validation
from limbeck.report.result import BudgetCheck
from limbeck.report.sweep import Figures, Trial


class Limits(Budget):
    """The lines of `--budget`: those of a recipe's budget, and energy.

    Accuracy and its drop are checked on the validation samples, since they select the trial.
    """

    energy_mj: Annotated[
        Positive | None, Field(description="Energy of one answer in millijoules, an estimate.")
    ] = None


@dataclass(frozen=True)
class _Line:
    """The measurement of a budget line: a figure, its unit, and its scale."""

    figure: str
    unit: str = ""
    divided_by: float = 1


LINES = {
    "size_kb": _Line("size", "kB", 1e3),
    "latency_ms": _Line("latency", "ms"),
    "accuracy_drop": _Line("accuracy_drop"),
    "accuracy": _Line("accuracy"),
    "parameters": _Line("parameters"),
    "flops": _Line("flops"),
    "memory_mb": _Line("memory", "MB", 1e6),
    "energy_mj": _Line("energy", "mJ", 1e-3),
}


def limits_of(text: str) -> Limits:
    """Parse `--budget`.

    Raises:
        InputError: A line is unknown, or has no value or a wrong one, or there is none; every
            problem is listed.

    Example:
        >>> limits_of("size_kb=30, latency_ms=0.5").latency_ms
        0.5
    """
    content = {}
    problems = []
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value) or name in content:
            allowed = "name=value once for each line, such as size_kb=30,latency_ms=0.5"
            problems.append(Problem("--budget", part, allowed))
        else:
            content[name] = parse(value, where=f"--budget {name}")
    try:
        limits = Limits.model_validate(content)
    except ValidationError as error:
        problems += of_validation(error, Limits, "--budget")
    if problems:
        raise InputError(*problems)
    return limits


def checks(figures: Figures, limits: Limits) -> tuple[BudgetCheck, ...]:
    """Check a trial against every line of the budget.

    Raises:
        InputError: A line limits something that was not measured.
    """
    found = []
    for name, line in LINES.items():
        allowed, value = getattr(limits, name), getattr(figures, line.figure)
        if allowed is None:
            continue
        if value is None:
            raise InputError(Problem(f"--budget {name}", allowed, "nothing: it was not measured"))
        measured = value / line.divided_by
        met = measured >= allowed if name == "accuracy" else measured <= allowed
        found.append(
            BudgetCheck(name=name, allowed=allowed, measured=measured, unit=line.unit, met=met)
        )
    return tuple(found)


def miss(check: BudgetCheck) -> float:
    """Compute by how much a line is missed, 0 if it is met.

    A cost is missed by its excess relative to the allowed value, an accuracy by the difference: one
    per cent too large counts as much as one point too inaccurate.

    Example:
        >>> miss(BudgetCheck(name="size_kb", allowed=40, measured=44, unit="kB", met=False))
        0.1
    """
    if check.met:
        return 0.0
    if check.name.startswith("accuracy"):
        return abs(check.measured - check.allowed)
    return round(check.measured / check.allowed - 1, 12)


def choose(trials: Sequence[Trial], limits: Limits) -> tuple[Trial, tuple[BudgetCheck, ...]]:
    """Return the trial of the highest accuracy among those that meet every line.

    Ties are broken by size, then latency, then number. If no trial meets all lines, the one with
    the smallest sum of misses is returned.

    Args:
        trials: Finished trials, at least one.
        limits: The budget.

    Returns:
        The trial, and its lines.
    """
    held = [(trial, checks(_figures(trial), limits)) for trial in trials]
    fitting = [one for one in held if all(check.met for check in one[1])]
    if fitting:
        return min(fitting, key=lambda one: _rank(one[0]))
    return min(held, key=lambda one: (sum(map(miss, one[1])), *_rank(one[0])))


def _figures(trial: Trial) -> Figures:
    if trial.figures is None:
        raise ValueError(f"trial {trial.number} is not done")
    return trial.figures


def _rank(trial: Trial) -> tuple[float, ...]:
    figures = _figures(trial)
    return -figures.accuracy, figures.size, figures.latency, trial.number
