"""A section of the page: the result of one evaluation, as text, charts and tables."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.evaluate.evaluation import Asked
from limbeck.evaluate.finding import Estimate, Finding, Unit, Verdict
from limbeck.report import format as fmt
from limbeck.report.chapters import CHAPTERS
from limbeck.report.charts.lines import Series
from limbeck.report.panels.panel import Panel
from limbeck.report.result import Role, RunResult
from limbeck.report.tables import Column, Table

SIGNS: dict[Verdict, tuple[str, str]] = {
    "improved": ("▲", "improved"),
    "kept": ("✓", "kept"),
    "lost": ("▼", "lost"),
    "open": ("?", "open"),
    "alone": ("·", "no comparison"),
}


BOTH = (Column("student", "student"), Column("teacher", "teacher"))
"""The columns of a table of both models."""


@dataclass(frozen=True)
class Sample:
    """A test sample with captioned images of it, or a text."""

    title: str
    pictures: tuple[tuple[str, str], ...] = ()
    words: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Chapter:
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


@dataclass(frozen=True)
class Line:
    """A row of the verdict table, as written; `place` is the anchor of how it was measured."""

    place: str
    name: str
    verdict: Verdict
    sign: str
    word: str
    student: str
    teacher: str
    difference: str
    how: str


@dataclass(frozen=True)
class Section:
    """A chapter with its anchor on the page, its table rows and its notes."""

    id: str
    chapter: Chapter
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def sections(result: RunResult) -> list[Section]:
    """Return the sections of all evaluations of a run, in their order."""
    if result.evaluation is None:
        return []
    return [_section(one, result) for one in result.evaluation.asked]


def _section(one: Asked, result: RunResult) -> Section:
    place = f"on-{one.question}"
    return Section(
        id=place,
        chapter=CHAPTERS.load(one.question)(one.found, result),
        lines=tuple(
            _line(finding, f"{place}-{number}") for number, finding in enumerate(one.findings)
        ),
        notes=one.notes,
    )


def _line(finding: Finding, place: str) -> Line:
    sign, word = SIGNS[finding.verdict]
    gap = finding.difference
    return Line(
        place=place,
        name=finding.name,
        verdict=finding.verdict,
        sign=sign,
        word=word,
        student=_estimate(finding.student, finding.unit),
        teacher=_estimate(finding.teacher, finding.unit),
        difference=fmt.MISSING if gap is None else _difference(gap, finding.unit),
        how=finding.how,
    )


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


def _estimate(estimate: Estimate | None, unit: Unit) -> str:
    return fmt.MISSING if estimate is None else written(estimate.value, unit)


def _difference(gap: Estimate, unit: Unit) -> str:
    if unit == "share":
        ends = fmt.points_interval(gap.interval) if gap.interval else ""
        between = f" ({ends.removesuffix(' points')})" if ends else ""
        return fmt.points(gap.value) + between
    if gap.interval is None:
        return signed(gap.value, unit)
    ends = f"{signed(gap.interval.low, unit)} to {signed(gap.interval.high, unit)}"
    return f"{signed(gap.value, unit)} ({ends})"


def between(estimate: Estimate | None, unit: Unit = "share") -> str:
    """Write an estimate with its interval."""
    if estimate is None or estimate.interval is None:
        return _estimate(estimate, unit)
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
