"""A section of the page: the result of one evaluation, as text, charts and tables."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.core.registry import Registry
from limbeck.evaluate.comparison import MetricComparison, Verdict, written_difference
from limbeck.evaluate.evaluation import GROUP, EvaluationResult
from limbeck.evaluate.section import SectionContent, estimated
from limbeck.report.result import RunResult

SECTIONS = Registry(
    "limbeck.evaluate",
    kind="evaluation",
    attribute="section",
    folders=True,
    within="section",
    group=GROUP,
)
"""Functions that draw the result of an evaluation, by its name."""

SIGNS: dict[Verdict, str] = {
    "better": "▲",
    "non-inferior": "✓",
    "worse": "▼",
    "inconclusive": "?",
    "no reference": "·",
}


@dataclass(frozen=True)
class Line:
    """A row of the verdict table, as written; `anchor` is that of its method's description."""

    anchor: str
    name: str
    verdict: Verdict
    student: str
    teacher: str
    difference: str
    method: str

    @property
    def sign(self) -> str:
        """Return the sign of the verdict."""
        return SIGNS[self.verdict]


@dataclass(frozen=True)
class Section:
    """A section of an evaluation: its anchor, its content, its verdicts and its notes."""

    id: str
    content: SectionContent
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def sections(result: RunResult) -> list[Section]:
    """Return the sections of all evaluations of a run, in their order."""
    results = result.evaluation.results if result.evaluation else ()
    return [_section(one) for one in results]


def _section(one: EvaluationResult) -> Section:
    anchor = f"on-{one.evaluation}"
    lines = [_line(metric, f"{anchor}-{index}") for index, metric in enumerate(one.comparisons)]
    content = SECTIONS.load(one.evaluation)(one.result)
    return Section(anchor, content, tuple(lines), one.notes)


def _line(metric: MetricComparison, anchor: str) -> Line:
    difference = metric.difference
    return Line(
        anchor=anchor,
        name=metric.name,
        verdict=metric.verdict,
        student=estimated(metric.student, metric.unit),
        teacher=estimated(metric.teacher, metric.unit) if metric.teacher else "–",
        difference=written_difference(difference, metric.unit) if difference else "–",
        method=metric.method,
    )
