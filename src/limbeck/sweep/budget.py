"""The budget of the student, and the selection of the best trial within it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError

from limbeck.errors import InputError, Problem
from limbeck.pipeline.load_recipe import parse
from limbeck.pipeline.recipe import Budget, Positive
from limbeck.pipeline.results import score_checks
from limbeck.pipeline.validate import of_validation
from limbeck.report.result import BudgetCheck
from limbeck.report.sweep import Figures, Trial


class Limits(Budget):
    """The lines of `--budget`: those of a recipe's budget, and energy.

    Scores and drops are checked on the validation samples, since they select the trial.
    """

    energy_mj: Annotated[
        Positive | None, Field(description="Energy of one prediction in millijoules, an estimate.")
    ] = None


LINES: dict[str, tuple[str, str, float]] = {
    "size_kb": ("size", "kB", 1e3),
    "latency_ms": ("latency", "ms", 1),
    "parameters": ("parameters", "", 1),
    "flops": ("flops", "", 1),
    "memory_mb": ("memory", "MB", 1e6),
    "energy_mj": ("energy", "mJ", 1e-3),
}
"""The lines of a budget: the figure that each limits, its unit, and the divisor to that unit."""


def limits_of(text: str) -> Limits:
    """Parse `--budget`.

    Raises:
        InputError: A line is unknown, or has no value or a wrong one, or there is none; every
            problem is listed.

    Example:
        >>> limits_of("size_kb=30, latency_ms=0.5").latency_ms
        0.5
    """
    content: dict[str, Any] = {}
    problems = []
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        key, _, score = name.partition(".")
        place = content.setdefault(key, {}) if score and key in ("score", "drop") else content
        last = score if place is not content else name
        if not (name and equals and value) or last in place:
            allowed = "name=value once for each line, such as size_kb=30,drop.accuracy=0.01"
            problems.append(Problem("--budget", part, allowed))
        else:
            place[last] = parse(value, where=f"--budget {name}")
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
    for name, (figure, unit, divisor) in LINES.items():
        allowed, value = getattr(limits, name), getattr(figures, figure)
        if allowed is None:
            continue
        if value is None:
            raise InputError(Problem(f"--budget {name}", allowed, "nothing: it was not measured"))
        measured = value / divisor
        met = measured <= allowed
        found.append(BudgetCheck(name=name, allowed=allowed, measured=measured, unit=unit, met=met))
    metric, teacher = figures.metric, figures.teacher_score
    for key, lines in (("score", limits.score), ("drop", limits.drop)):
        for name in lines:
            if name != metric.name:
                fix = "Trials are compared by the task's primary score."
                raise InputError(Problem(f"--budget {key}", name, metric.name, fix))
    if limits.drop and teacher is None:
        raise InputError(Problem("--budget drop", limits.drop, "nothing, without a teacher"))
    reference = None if teacher is None else {metric.name: (metric, teacher)}
    found += score_checks(limits, {metric.name: (metric, figures.score)}, reference)
    return tuple(found)


def miss(check: BudgetCheck) -> float:
    """Compute by how much a line is missed, 0 if it is met.

    A cost is missed by its excess relative to the allowed value, a share by the difference: one per
    cent too large counts as much as one point too inaccurate. Other scores are relative, too.

    Example:
        >>> miss(BudgetCheck(name="size_kb", allowed=40, measured=44, unit="kB", met=False))
        0.1
    """
    if check.met:
        return 0.0
    excess = abs(check.measured - check.allowed)
    if check.metric is not None and (check.metric.unit == "share" or not check.allowed):
        return excess
    return round(excess / abs(check.allowed), 12)


def choose(trials: Sequence[Trial], limits: Limits) -> tuple[Trial, tuple[BudgetCheck, ...]]:
    """Return the trial of the best score among those that meet every line, and its lines.

    Ties are broken by size, then latency, then number. If no trial meets all lines, the one with
    the smallest sum of misses is returned. At least one finished trial is required.
    """
    checked = [(trial, checks(_figures(trial), limits)) for trial in trials]

    def rank(one: tuple[Trial, tuple[BudgetCheck, ...]]) -> tuple[float, ...]:
        trial, lines = one
        figures = _figures(trial)
        fits = all(check.met for check in lines)
        best = (-figures.quality, figures.size, figures.latency, trial.number)
        return (not fits, sum(map(miss, lines)), *best)

    return min(checked, key=rank)


def _figures(trial: Trial) -> Figures:
    if trial.figures is None:
        raise ValueError(f"trial {trial.number} is not done")
    return trial.figures
