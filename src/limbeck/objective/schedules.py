"""Schedules of hyperparameters: functions of training progress in [0, 1].

A schedule is data: it can be compared and printed, and converted to a recipe and back (`parse`,
`dump`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, TypeAlias

from pydantic import Field, SkipValidation

from limbeck.core.annotations import validate_arguments
from limbeck.core.numbers import is_number
from limbeck.errors import InputError, Problem, did_you_mean


@dataclass(frozen=True)
class Constant:
    """A constant value.

    Example:
        >>> Constant(0.9)(0.5)
        0.9
    """

    value: float

    def __call__(self, progress: float) -> float:
        """Return the value."""
        return self.value


@dataclass(frozen=True)
class Linear:
    """A linear schedule from `start` to `end`.

    Example:
        >>> Linear(start=10, end=1)(0.5)
        5.5
    """

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        """Return the value at this progress."""
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class Cosine:
    """A cosine schedule from `start` to `end`: slow, fast, slow.

    Example:
        >>> round(Cosine(start=1, end=0)(0.25), 4)
        0.8536
    """

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        """Return the value at this progress."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Step:
    """A piecewise constant schedule that changes at the given progress values.

    Attributes:
        values: The values, one more than `at`.
        at: The progress of each change, ascending, in (0, 1).

    Example:
        >>> schedule = Step(values=(1.0, 0.1), at=(0.5,))
        >>> schedule(0.49), schedule(0.5)
        (1.0, 0.1)
    """

    values: tuple[float, ...]
    at: tuple[float, ...]

    def __call__(self, progress: float) -> float:
        """Return the value at this progress."""
        return self.values[sum(progress >= change for change in self.at)]


@dataclass(frozen=True)
class Ramp:
    """A linear ramp from `start` to `end` up to progress `until`, constant afterwards.

    Example:
        >>> schedule = Ramp(start=0, end=1, until=0.2)
        >>> schedule(0.1), schedule(0.9)
        (0.5, 1)
    """

    start: float
    end: float
    until: Annotated[float, Field(gt=0, le=1)]

    def __call__(self, progress: float) -> float:
        """Return the value at this progress."""
        if progress >= self.until:
            return self.end
        return self.start + (self.end - self.start) * progress / self.until


Schedule: TypeAlias = Constant | Linear | Cosine | Step | Ramp
Spec: TypeAlias = Annotated[float | Mapping[str, Any] | Schedule, SkipValidation()]
"""A schedule, or its form in a recipe, which `parse` validates."""

KINDS: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "step": Step,
    "ramp": Ramp,
}
_FORMS = "a number, or one of " + ", ".join(
    f"{{{kind}: {{{', '.join(field.name for field in fields(schedule))}}}}}"
    for kind, schedule in KINDS.items()
)


def parse(spec: object, *, where: str = "schedule") -> Schedule:
    """Parse a schedule from a recipe's value.

    Args:
        spec: A number, `{kind: {...}}`, or a schedule, which is returned unchanged.
        where: The key in the recipe, for messages.

    Raises:
        InputError: An unknown kind, a missing or unknown key, or an invalid value; the message
            lists all.

    Example:
        >>> parse(0.9)
        Constant(value=0.9)
        >>> parse({"linear": {"start": 10, "end": 1}})
        Linear(start=10.0, end=1.0)
        >>> parse({"ramp": {"start": 0, "end": 1, "untill": 0.2}})
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: schedule.ramp.untill: got 0.2; ... did you mean "until"?
    """
    if isinstance(spec, Schedule):
        return spec
    if is_number(spec):
        return Constant(spec)
    if not (isinstance(spec, Mapping) and len(spec) == 1):
        raise InputError(Problem(where, spec, _FORMS))
    ((kind, settings),) = spec.items()
    if kind not in KINDS:
        raise InputError(Problem(where, kind, _FORMS, did_you_mean(kind, KINDS)))
    make: Callable[..., Schedule] = KINDS[kind]
    schedule = make(**validate_arguments(make, settings, where=f"{where}.{kind}"))
    if isinstance(schedule, Step):
        _check_step(schedule, f"{where}.{kind}")
    return schedule


def dump(schedule: Schedule) -> float | dict[str, dict[str, object]]:
    """Convert a schedule to its form in a recipe: the inverse of `parse`.

    Example:
        >>> dump(Constant(0.9)), dump(Ramp(start=0, end=1, until=0.2))
        (0.9, {'ramp': {'start': 0, 'end': 1, 'until': 0.2}})
    """
    if isinstance(schedule, Constant):
        return schedule.value
    settings = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(schedule).items()
    }
    return {type(schedule).__name__.lower(): settings}


def numbers(schedule: Schedule) -> Iterator[tuple[str, float]]:
    """Yield the places and values of the numbers that bound a schedule; all others are between.

    Example:
        >>> list(numbers(Ramp(start=0, end=1, until=0.2)))
        [('ramp.start', 0), ('ramp.end', 1)]
    """
    kind = type(schedule).__name__.lower()
    for key, value in vars(schedule).items():
        if key == "values":
            yield from ((f"{kind}.values.{place}", one) for place, one in enumerate(value))
        elif key in ("value", "start", "end"):
            yield f"{kind}.{key}", value


def _check_step(step: Step, where: str) -> None:
    if not all(a < b for a, b in pairwise((0, *step.at, 1))):
        allowed = "ascending progresses, each above 0 and below 1"
        raise InputError(Problem(f"{where}.at", step.at, allowed))
    if len(step.values) != len(step.at) + 1:
        allowed = f"{len(step.at) + 1} values, one more than there are changes"
        raise InputError(Problem(f"{where}.values", step.values, allowed))
