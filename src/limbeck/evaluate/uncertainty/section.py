"""The section on uncertainty: selective prediction and OOD detection."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.display import format as fmt
from limbeck.display.blocks import Column, Panel, Row, Table, percent_tick
from limbeck.display.charts import lines
from limbeck.evaluate.section import BOTH, Points, SectionContent, between, both, pair
from limbeck.evaluate.uncertainty import Uncertainty
from limbeck.evaluate.uncertainty.interval_overlap import IntervalOverlap
from limbeck.evaluate.uncertainty.ood import OodDetection
from limbeck.evaluate.uncertainty.selective_prediction import Deferral, SelectivePrediction


def section(found: Uncertainty) -> SectionContent:
    """Draw the risk–coverage curve, and the effect of deferring to the teacher."""
    tables = (
        _deferrals(found.deferrals, found.to_match),
        _entropies(found),
        _outside(found.ood),
        _intervals(found.intervals),
    )
    return SectionContent(
        "Does it know when it does not know?",
        _lead(found),
        panels=(_curve(found),),
        tables=tuple(table for table in tables if table.rows),
    )


def _lead(found: Uncertainty) -> str:
    match = found.to_match
    if match is None:
        return "What is answered least surely can be handed to the teacher, or to a person."
    return (
        f"Handing {fmt.percent(1 - match.answered.value, 1)} of the samples to the teacher, those "
        "it is least sure of, was enough to be no worse than the teacher on the validation "
        f"samples; on the test samples that gives {between(match.with_teacher)}."
    )


def _curve(found: Uncertainty) -> Panel:
    title = "Selective risk by coverage"
    said = "Error rate of the most confident predictions, by their share of all."
    series = both(_points(found.student), () if found.teacher is None else _points(found.teacher))
    return Panel(
        title,
        f"{said} The lower, the better confidence tells errors from right answers.",
        lines(
            series,
            axis=percent_tick,
            title=title,
            description=said,
            across="answers given, in %",
        ),
    )


def _points(doubt: SelectivePrediction) -> Points:
    return tuple((100 * point.coverage, point.risk) for point in doubt.curve)


def _deferrals(deferrals: Sequence[Deferral], to_match: Deferral | None) -> Table:
    columns = tuple(
        Column(label, "student")
        for label in ("answered itself", "accuracy on these", "rest to the teacher", "to a person")
    )
    shown = [*deferrals, *([to_match] if to_match else [])]
    rows = tuple(
        Row(
            f"Sure by {fmt.percent(one.threshold, 1)} or more",
            (
                fmt.percent(one.answered.value, 1),
                between(one.alone),
                between(one.with_teacher),
                between(one.with_person),
            ),
        )
        for one in shown
    )
    caption = "Thresholds are chosen on the validation samples; the person is always right."
    return Table("Selective prediction", caption, columns, rows)


def _entropies(found: Uncertainty) -> Table:
    teacher = found.teacher.entropy if found.teacher else None
    student = found.student.entropy
    rows = (
        Row(
            "Correct predictions",
            pair(student.mean_right, teacher.mean_right if teacher else None, "nats"),
        ),
        Row(
            "Wrong answers",
            pair(student.mean_wrong, teacher.mean_wrong if teacher else None, "nats"),
        ),
    )
    return Table("Mean entropy of answers", "With 95 % intervals.", BOTH, rows)


def _outside(outside: Sequence[OodDetection]) -> Table:
    rows: list[Row] = []
    for one in outside:
        name = f"{one.samples}, by {one.score}"
        rows += [
            Row(f"{name}: AUROC", pair(one.auroc.student, one.auroc.teacher)),
            Row(
                f"{name}: FPR@95TPR",
                pair(one.fpr_at_95_tpr.student, one.fpr_at_95_tpr.teacher),
            ),
        ]
    caption = (
        "How often a test sample scores above one from outside; and how many from outside pass "
        "where 95 % of the test samples do."
    )
    return Table("Samples from outside", caption, BOTH, tuple(rows))


def _intervals(intervals: Sequence[IntervalOverlap]) -> Table:
    columns = (*BOTH, Column("in common", "student"), Column("width beside", "student"))
    rows = tuple(
        Row(
            one.figure,
            (
                *pair(one.student, one.teacher, "number"),
                fmt.percent(one.overlap, 0),
                fmt.ratio(one.width),
            ),
        )
        for one in intervals
    )
    caption = "What both 95 % intervals cover, of what either covers: 100 % says they are the same."
    return Table("CI overlap", caption, columns, rows)
