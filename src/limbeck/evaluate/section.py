"""The result of an evaluation as a section of a page: text, charts, tables and samples."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.display import format as fmt
from limbeck.display.blocks import Column, Panel, Table
from limbeck.display.charts import Series
from limbeck.display.svg import Role
from limbeck.evaluate.comparison import Estimate, Unit

BOTH = (Column("student", "student"), Column("teacher", "teacher"))
"""The columns of a table of both models."""


@dataclass(frozen=True)
class Sample:
    """A test sample with captioned images of it, or a text."""

    title: str
    pictures: tuple[tuple[str, str], ...] = ()
    words: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class SectionContent:
    """The result of an evaluation, ready for the page.

    Attributes:
        title: Its heading.
        lead: A summary in one or two sentences.
        panels: The charts.
        tables: Detailed figures.
        samples: Illustrative samples.
        warnings: Warnings that must be seen.
    """

    title: str
    lead: str
    panels: tuple[Panel, ...] = ()
    tables: tuple[Table, ...] = ()
    samples: tuple[Sample, ...] = ()
    warnings: tuple[str, ...] = ()


def written(value: float | None, unit: Unit) -> str:
    """Write a figure in its unit."""
    forms = {
        "share": fmt.percent,
        "nats": lambda number: f"{fmt.number(number)} nats",
        "joules": fmt.joules,
        "number": fmt.number,
        "bytes": fmt.size,
        "milliseconds": fmt.milliseconds,
        "grams": fmt.grams,
    }
    return fmt.MISSING if value is None else forms[unit](value)


def estimated(estimate: Estimate | None, unit: Unit) -> str:
    """Write an estimate's value in its unit."""
    return fmt.MISSING if estimate is None else written(estimate.value, unit)


def between(estimate: Estimate | None, unit: Unit = "share") -> str:
    """Write an estimate with its interval."""
    if estimate is None or estimate.interval is None:
        return estimated(estimate, unit)
    low, high = (written(end, unit) for end in (estimate.interval.low, estimate.interval.high))
    return f"{written(estimate.value, unit)} ({low} to {high})"


def pair(
    student: Estimate | None, teacher: Estimate | None, unit: Unit = "share"
) -> tuple[str, ...]:
    """Write the student's and the teacher's figures as cells of a row below `BOTH`."""
    return (between(student, unit), between(teacher, unit))


Points = tuple[tuple[float, float], ...]


def both(student: Points, teacher: Points) -> list[Series]:
    """Return the series of student and teacher, which differ in dash and mark as well as colour."""
    sides: tuple[tuple[Role, Points, str | None], ...] = (
        ("student", student, None),
        ("teacher", teacher, "6 3"),
    )
    return [
        Series(role, points, role, dash=dash, mark=True) for role, points, dash in sides if points
    ]


def signed(value: float, unit: Unit) -> str:
    """Write a difference with its sign."""
    sign = "\N{MINUS SIGN}" if value < 0 else "+"
    return sign + written(abs(value), unit)
