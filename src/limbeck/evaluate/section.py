"""The result of an evaluation as a section of a page: text, charts, tables and samples."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.display.blocks import Column, Panel, Table
from limbeck.display.charts import Series
from limbeck.display.svg import Role
from limbeck.evaluate.comparison import Estimate, Unit, written

BOTH = (Column("student", "student"), Column("teacher", "teacher"))
"""The columns of a table of both models."""

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Sample:
    """A test sample: images, each with its caption, or the words of a text with their weights."""

    title: str
    images: tuple[tuple[str, str], ...] = ()
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
        causes: Probable causes in order, each with what to do about it.
    """

    title: str
    lead: str
    panels: tuple[Panel, ...] = ()
    tables: tuple[Table, ...] = ()
    samples: tuple[Sample, ...] = ()
    warnings: tuple[str, ...] = ()
    causes: tuple[tuple[str, str], ...] = ()


def student_columns(*labels: str) -> tuple[Column, ...]:
    """Return the columns of a table of the student only."""
    return tuple(Column(label, "student") for label in labels)


def estimated(estimate: Estimate | None, unit: Unit) -> str:
    """Write an estimate's value in its unit."""
    return written(None if estimate is None else estimate.value, unit)


def between(estimate: Estimate | None, unit: Unit = "share") -> str:
    """Write an estimate with its interval."""
    if estimate is None or estimate.interval is None:
        return estimated(estimate, unit)
    low, high = (written(end, unit) for end in estimate.ends)
    return f"{written(estimate.value, unit)} ({low} to {high})"


def pair(
    student: Estimate | None, teacher: Estimate | None, unit: Unit = "share"
) -> tuple[str, ...]:
    """Write the student's and the teacher's figures as cells of a row below `BOTH`."""
    return (between(student, unit), between(teacher, unit))


def both(student: Points, teacher: Points) -> list[Series]:
    """Return the series of student and teacher, which differ in dash and mark as well as colour."""
    curves: tuple[tuple[Role, Points, str | None], ...] = (
        ("student", student, None),
        ("teacher", teacher, "6 3"),
    )
    return [
        Series(role, points, role, dash=dash, mark=True) for role, points, dash in curves if points
    ]
