"""Metric comparison of student and teacher, classified as a non-inferiority test."""

from __future__ import annotations

from typing import Literal

from limbeck.core.measurement import Interval, Result

Direction = Literal["higher", "lower"]
Verdict = Literal["better", "non-inferior", "worse", "inconclusive", "no reference"]
Unit = Literal["share", "nats", "joules", "number", "bytes", "milliseconds", "grams"]


class Estimate(Result):
    """A value with its 95 % confidence interval; None where there is no interval."""

    value: float
    interval: Interval | None = None


class MetricComparison(Result):
    """One metric of both models, and its verdict.

    Attributes:
        name: The metric, as a heading: "Accuracy under PGD, 8/255".
        unit: Its unit.
        direction: Whether higher or lower is better.
        student: The student's value.
        teacher: The teacher's, if there is one.
        difference: Student less teacher, on the same samples.
        margin: The non-inferiority margin, in the same unit.
        verdict: The classification; see `classify`.
        summary: The verdict as one plain sentence.
        method: The method of measurement, as one plain sentence.
    """

    name: str
    unit: Unit
    direction: Direction
    student: Estimate
    teacher: Estimate | None
    difference: Estimate | None
    margin: float
    verdict: Verdict
    summary: str
    method: str


def classify(difference: Estimate | None, *, direction: Direction, margin: float) -> Verdict:
    """Classify a metric by the confidence interval of its difference, as a non-inferiority test.

    `better`: the whole interval is on the better side of zero. `non-inferior`: no loss larger than
    the margin lies within it. `worse`: the whole interval is on the worse side of zero.
    `inconclusive`: too few samples to decide. `no reference`: there is no teacher.

    Args:
        difference: Student less teacher.
        direction: Whether higher or lower is better.
        margin: The non-inferiority margin.

    Example:
        >>> between = Interval(low=-0.004, high=0.002, method="paired bootstrap")
        >>> classify(Estimate(value=-0.001, interval=between), direction="higher", margin=0.01)
        'non-inferior'
    """
    if difference is None:
        return "no reference"
    interval = difference.interval
    low, high = (interval.low, interval.high) if interval else (difference.value,) * 2
    if direction == "lower":
        low, high = -high, -low
    if low > 0:
        return "better"
    if low >= -margin:
        return "non-inferior"
    return "worse" if high < 0 else "inconclusive"


VERDICT_PHRASES = {
    "better": "is better than the teacher's",
    "non-inferior": "is non-inferior to the teacher's",
    "worse": "is worse than the teacher's",
    "inconclusive": "is inconclusive: too few samples",
}
UNIT_FORMATS: dict[Unit, tuple[float, str, str]] = {
    "share": (100, ".1f", " %"),
    "nats": (1, ".3f", " nats"),
    "joules": (1, ".3g", " J"),
    "number": (1, ".3f", ""),
    "bytes": (1, ",.0f", " bytes"),
    "milliseconds": (1, ".3g", " ms"),
    "grams": (1, ".3g", " g"),
}
"""The format of each unit: factor, number format, suffix."""

PREFIXES = ((1e3, 1e-3, "k"), (1.0, 1.0, ""), (1e-3, 1e3, "m"))
"""SI prefixes of energy and mass: smallest value, factor, letter."""


def compare(
    name: str,
    *,
    unit: Unit,
    direction: Direction,
    student: Estimate,
    teacher: Estimate | None = None,
    difference: Estimate | None = None,
    margin: float,
    method: str,
) -> MetricComparison:
    """Compare a metric of student and teacher; the difference decides the verdict and its sentence.

    The arguments are the attributes of the result.
    """
    verdict = classify(difference, direction=direction, margin=margin)
    phrase = "" if difference is None else f" {VERDICT_PHRASES[verdict]}"
    summary = f"{name}{phrase}: the student's is {_written(student.value, unit)}"
    if teacher is not None:
        summary += f", the teacher's {_written(teacher.value, unit)}"
    if difference is not None:
        summary += f" ({_difference(difference, unit)})"
    return MetricComparison(
        name=name,
        unit=unit,
        direction=direction,
        student=student,
        teacher=teacher,
        difference=difference,
        margin=margin,
        verdict=verdict,
        summary=f"{summary}.",
        method=method,
    )


def _format(unit: Unit, largest: float) -> tuple[float, str, str]:
    factor, number_format, suffix = UNIT_FORMATS[unit]
    if unit in ("joules", "grams"):
        fitting = ((scale, letter) for least, scale, letter in PREFIXES if abs(largest) >= least)
        scale, letter = next(fitting, (1e6, "µ"))
        return factor * scale, number_format, f" {letter}{suffix.strip()}"
    return factor, number_format, suffix


def _written(value: float, unit: Unit) -> str:
    factor, number_format, suffix = _format(unit, value)
    return f"{value * factor:{number_format}}{suffix}"


def _difference(difference: Estimate, unit: Unit) -> str:
    numbers = [difference.value]
    if difference.interval is not None:
        numbers += [difference.interval.low, difference.interval.high]
    factor, number_format, suffix = _format(unit, max(numbers, key=abs))
    suffix = " points" if unit == "share" else suffix
    value, *ends = (f"{number * factor:+{number_format}}" for number in numbers)
    return f"{value}{suffix}, {' to '.join(ends)}" if ends else f"{value}{suffix}"
