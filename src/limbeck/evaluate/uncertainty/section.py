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
    """Draw the risk-coverage curve, and the effect of deferring to the teacher."""
    tables = (
        _deferrals(found.deferrals, found.to_match),
        _entropies(found),
        _ood(found.ood),
        _intervals(found.intervals),
    )
    return SectionContent(
        "Uncertainty",
        _lead(found),
        panels=(_curve(found),),
        tables=tuple(table for table in tables if table.rows),
    )


def _lead(found: Uncertainty) -> str:
    match = found.to_match
    if match is None:
        return "Samples of low confidence can be deferred to the teacher, or to a person."
    return (
        f"Deferring the {fmt.percent(1 - match.answered.value, 1)} of samples of lowest confidence "
        "to the teacher matched the teacher's accuracy on the validation samples; on the test "
        f"samples the accuracy is then {between(match.with_teacher)}."
    )


def _curve(found: Uncertainty) -> Panel:
    title = "Risk-coverage curve"
    description = "Error rate of the most confident predictions, by coverage."
    teacher = () if found.teacher is None else _points(found.teacher)
    return Panel(
        title,
        f"{description} The lower, the better confidence separates correct predictions from wrong.",
        lines(
            both(_points(found.student), teacher),
            axis=percent_tick,
            title=title,
            description=description,
            across="coverage, in %",
        ),
    )


def _points(found: SelectivePrediction) -> Points:
    return tuple((100 * point.coverage, point.risk) for point in found.curve)


def _deferrals(deferrals: Sequence[Deferral], to_match: Deferral | None) -> Table:
    columns = tuple(
        Column(label, "student")
        for label in ("coverage", "selective accuracy", "with the teacher", "with a person")
    )
    rows = tuple(
        Row(
            f"Confidence of at least {fmt.percent(one.threshold, 1)}",
            (
                fmt.percent(one.answered.value, 1),
                between(one.alone),
                between(one.with_teacher),
                between(one.with_person),
            ),
        )
        for one in [*deferrals, *([to_match] if to_match else [])]
    )
    caption = (
        "Accuracy by confidence threshold, chosen on the validation samples: of the student's own "
        "predictions, and of all if the teacher or an error-free person predicts the rest."
    )
    return Table("Selective prediction", caption, columns, rows)


def _entropies(found: Uncertainty) -> Table:
    student, teacher = found.student.entropy, found.teacher.entropy if found.teacher else None
    right = pair(student.mean_right, teacher.mean_right if teacher else None, "nats")
    wrong = pair(student.mean_wrong, teacher.mean_wrong if teacher else None, "nats")
    rows = (Row("Correct predictions", right), Row("Wrong predictions", wrong))
    return Table("Mean entropy of predictions", "With 95 % intervals.", BOTH, rows)


def _ood(found: Sequence[OodDetection]) -> Table:
    rows = tuple(
        Row(f"{one.samples}, by {one.score}: {metric}", pair(estimate.student, estimate.teacher))
        for one in found
        for metric, estimate in (("AUROC", one.auroc), ("FPR@95TPR", one.fpr_at_95_tpr))
    )
    caption = (
        "AUROC: how often a test sample scores above an OOD sample. FPR@95TPR: the share of OOD "
        "samples accepted at the threshold that accepts 95 % of the test samples."
    )
    return Table("OOD detection", caption, BOTH, rows)


def _intervals(intervals: Sequence[IntervalOverlap]) -> Table:
    columns = (*BOTH, Column("overlap", "student"), Column("relative width", "student"))
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
    caption = "Intersection over union of the 95 % intervals; width relative to the teacher's."
    return Table("CI overlap", caption, columns, rows)
