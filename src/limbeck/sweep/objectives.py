"""Objectives of a sweep: accuracy is maximised, the chosen costs are minimised."""

from __future__ import annotations

import math
from collections.abc import Sequence

from limbeck.errors import InputError, LimbeckError, Problem, did_you_mean
from limbeck.evaluate.front import Direction
from limbeck.report.figures import p50
from limbeck.report.result import Link, RunResult
from limbeck.report.sweep_result import COSTS, Cost, Figures

ACCURACY = "accuracy"


def costs_of(text: str) -> tuple[Cost, ...]:
    """Parse `--objective`: the costs besides accuracy, in the order given.

    Raises:
        InputError: A word is unknown or repeated, accuracy is missing, or there is no cost.

    Example:
        >>> costs_of("accuracy,size,latency")
        ('size', 'latency')
    """
    words = [word.strip() for word in text.split(",")]
    allowed = [ACCURACY, *COSTS]
    problems = [
        Problem("--objective", word, ", ".join(allowed), did_you_mean(word, allowed))
        for word in words
        if word not in allowed
    ]
    if not problems and len(set(words)) < len(words):
        problems.append(Problem("--objective", text, "each objective once"))
    if not problems and (ACCURACY not in words or len(words) < 2):
        needed = f"{ACCURACY} and at least one of {', '.join(COSTS)}"
        problems.append(Problem("--objective", text, needed))
    if problems:
        raise InputError(*problems)
    return tuple(cost for word in words for cost in COSTS if cost == word)


def directions(costs: Sequence[Cost]) -> list[Direction]:
    """Return the direction of each objective: accuracy is maximised, every cost minimised."""
    down: Direction = "minimize"
    return ["maximize", *(down for _ in costs)]


def values(figures: Figures, costs: Sequence[Cost]) -> list[float]:
    """Return the objectives of a trial's figures: accuracy, then the costs.

    Raises:
        LimbeckError: One was not measured, or is not a finite number.
    """
    found = {name: getattr(figures, name) for name in (ACCURACY, *costs)}
    for name, value in found.items():
        if value is None or not math.isfinite(value):
            raise LimbeckError(f"{name} was not measured (found: {value})")
    return [float(value) for value in found.values()]


def figures_of(result: RunResult) -> Figures:
    """Return the figures of a run that select a trial, none of them from the test samples.

    Raises:
        LimbeckError: The latency was not measured.
    """
    shipped, teacher = result.shipped, result.teacher
    first = shipped.measured[0]
    latency = p50(first)
    if latency is None:
        raise LimbeckError("the latency on one thread was not measured")
    accuracy = _validated(shipped)
    return Figures(
        accuracy=accuracy,
        accuracy_drop=None if teacher is None else _validated(teacher) - accuracy,
        size=first.cost.size_bytes,
        latency=latency,
        flops=first.cost.flops,
        parameters=first.cost.parameters,
        memory=first.cost.peak_memory_bytes,
        energy=first.cost.energy.joules if first.cost.energy else None,
    )


def _validated(link: Link) -> float:
    return math.fsum(one.validation_accuracy for one in link.measured) / len(link.measured)
