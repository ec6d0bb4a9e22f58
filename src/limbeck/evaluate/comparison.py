"""Metric comparison of student and teacher, classified as a non-inferiority test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from limbeck.core.measurement import Interval, Result
from limbeck.display import format as fmt

Direction = Literal["higher", "lower"]
Verdict = Literal["better", "non-inferior", "worse", "inconclusive", "no reference"]
Unit = Literal["share", "nats", "joules", "number", "bytes", "milliseconds", "grams"]


class Estimate(Result):
    """A value with its 95 % confidence interval; None where there is no interval."""

    value: float
    interval: Interval | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Return the ends of the interval; twice the value where there is none."""
        interval = self.interval
        return (interval.low, interval.high) if interval else (self.value, self.value)


class MetricComparison(Result):
    """One metric of both models, and its verdict.

    Attributes:
        name: The metric, as a heading: "Accuracy under PGD, 8/255".
        direction: Whether higher or lower is better.
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
    """Classify the difference, student less teacher, of a metric, as a non-inferiority test.

    `better`: the whole interval is on the better side of zero. `non-inferior`: no loss larger than
    the margin lies within it. `worse`: the whole interval is on the worse side of zero.
    `inconclusive`: too few samples to decide. `no reference`: there is no teacher.

    Example:
        >>> between = Interval(low=-0.004, high=0.002, method="paired bootstrap")
        >>> classify(Estimate(value=-0.001, interval=between), direction="higher", margin=0.01)
        'non-inferior'
    """
    if difference is None:
        return "no reference"
    low, high = difference.ends
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
    "inconclusive": "is inconclusive (too few samples)",
}
UNIT_FORMATS: dict[Unit, Callable[[float], str]] = {
    "share": fmt.percent,
    "nats": lambda value: f"{fmt.number(value)} nats",
    "joules": fmt.joules,
    "number": fmt.number,
    "bytes": fmt.size,
    "milliseconds": fmt.milliseconds,
    "grams": fmt.grams,
}


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
    summary = f"{name}{phrase}: the student's is {written(student.value, unit)}"
    if teacher is not None:
        summary += f", the teacher's {written(teacher.value, unit)}"
    if difference is not None:
        summary += f"; difference {written_difference(difference, unit)}"
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


def written(value: float | None, unit: Unit) -> str:
    """Write a figure in its unit."""
    return fmt.MISSING if value is None else UNIT_FORMATS[unit](value)


def signed(value: float, unit: Unit) -> str:
    """Write a difference with its sign; that of two shares in points."""
    if unit == "share":
        return fmt.points(value)
    sign = "\N{MINUS SIGN}" if value < 0 else "+"
    return sign + written(abs(value), unit)


def written_difference(difference: Estimate, unit: Unit) -> str:
    """Write a difference with its sign and its interval; that of two shares in points.

    Example:
        >>> written_difference(Estimate(value=0.0154), "share")
        '+1.54 points'
    """
    if unit == "share":
        return fmt.points_estimate(difference.value, difference.interval)
    value, low, high = (signed(number, unit) for number in (difference.value, *difference.ends))
    return f"{value} ({low} to {high})" if difference.interval else value
