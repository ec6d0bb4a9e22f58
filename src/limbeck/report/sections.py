"""A section of the page: the result of one evaluation, as text, charts and tables."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.core.registry import Registry
from limbeck.display import format as fmt
from limbeck.evaluate.comparison import Estimate, MetricComparison, Unit, Verdict
from limbeck.evaluate.evaluation import EvaluationResult
from limbeck.evaluate.section import SectionContent, estimated, signed
from limbeck.report.result import RunResult

SECTIONS = Registry(
    "limbeck.evaluate", kind="evaluation", attribute="section", folders=True, within="section"
)
"""Functions that draw the result of an evaluation, by its name."""

SIGNS: dict[Verdict, tuple[str, str]] = {
    "better": ("▲", "better"),
    "non-inferior": ("✓", "non-inferior"),
    "worse": ("▼", "worse"),
    "inconclusive": ("?", "inconclusive"),
    "no reference": ("·", "no comparison"),
}


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
    chapter: SectionContent
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def sections(result: RunResult) -> list[Section]:
    """Return the sections of all evaluations of a run, in their order."""
    if result.evaluation is None:
        return []
    return [_section(one, result) for one in result.evaluation.results]


def _section(one: EvaluationResult, result: RunResult) -> Section:
    place = f"on-{one.evaluation}"
    return Section(
        id=place,
        chapter=SECTIONS.load(one.evaluation)(one.result),
        lines=tuple(
            _line(finding, f"{place}-{number}") for number, finding in enumerate(one.comparisons)
        ),
        notes=one.notes,
    )


def _line(finding: MetricComparison, place: str) -> Line:
    sign, word = SIGNS[finding.verdict]
    gap = finding.difference
    return Line(
        place=place,
        name=finding.name,
        verdict=finding.verdict,
        sign=sign,
        word=word,
        student=estimated(finding.student, finding.unit),
        teacher=estimated(finding.teacher, finding.unit),
        difference=fmt.MISSING if gap is None else _difference(gap, finding.unit),
        how=finding.method,
    )


def _difference(gap: Estimate, unit: Unit) -> str:
    if unit == "share":
        ends = fmt.points_interval(gap.interval) if gap.interval else ""
        between = f" ({ends.removesuffix(' points')})" if ends else ""
        return fmt.points(gap.value) + between
    if gap.interval is None:
        return signed(gap.value, unit)
    ends = f"{signed(gap.interval.low, unit)} to {signed(gap.interval.high, unit)}"
    return f"{signed(gap.value, unit)} ({ends})"
