"""The section on calibration: expected calibration error and temperature scaling."""

from __future__ import annotations

from collections.abc import Iterator

from limbeck.display import format as fmt
from limbeck.display.blocks import Column, Panel, Row, Table
from limbeck.display.svg import Role
from limbeck.evaluate.calibration import Calibration, CalibrationSummary
from limbeck.evaluate.calibration.diagram import reliability
from limbeck.evaluate.calibration.metrics import Reliability
from limbeck.evaluate.section import SectionContent


def section(found: Calibration) -> SectionContent:
    """Draw the reliability diagrams after temperature scaling, and list the calibration errors."""
    return SectionContent(
        "Calibration",
        _lead(found),
        panels=tuple(panel for role, one in _sides(found) if (panel := _panel(role, one.scaled))),
        tables=(_table(found),),
    )


def _sides(found: Calibration) -> Iterator[tuple[Role, CalibrationSummary]]:
    yield "student", found.student
    if found.teacher is not None:
        yield "teacher", found.teacher


def _lead(found: Calibration) -> str:
    temperatures = [
        f"the {role}'s is {fmt.number(one.temperature.value)}"
        + ("" if one.temperature.fitted else " (not fitted: the likelihood has no maximum)")
        for role, one in _sides(found)
    ]
    return (
        "A temperature above 1 corrects overconfidence. Fitted on the validation samples, "
        f"{fmt.listing(temperatures)}."
    )


def _panel(role: Role, scaled: Reliability) -> Panel | None:
    if not any(one.count for one in scaled.bins):
        return None
    title = f"Reliability diagram of the {role} after temperature scaling"
    error = f"Expected calibration error {fmt.percent(scaled.ece)}."
    return Panel(
        title,
        f"{error} Test samples in {len(scaled.bins)} confidence bins of equal width.",
        reliability(scaled.bins, role, title=title, description=error),
    )


def _table(found: Calibration) -> Table:
    columns, summaries = [], []
    for role, one in _sides(found):
        columns += [Column(role, role), Column(f"{role}, scaled", role)]
        summaries += [one.shipped, one.scaled]
    rows = (
        Row("ECE, bins of equal width", tuple(fmt.percent(one.ece) for one in summaries)),
        Row("ECE, bins of equal mass", tuple(fmt.percent(one.ece_equal_mass) for one in summaries)),
        Row("ECE, class-wise", tuple(fmt.percent(one.ece_class_wise) for one in summaries)),
        Row(
            "Calibration error (RMS), debiased",
            tuple(fmt.percent(one.ece_debiased) for one in summaries),
        ),
        Row("Maximum calibration error (MCE)", tuple(fmt.percent(one.mce) for one in summaries)),
        Row("Brier score", tuple(fmt.number(one.brier) for one in summaries)),
        Row("Negative log-likelihood, nats", tuple(fmt.number(one.nll) for one in summaries)),
    )
    caption = "Of the exported file on the test samples; scaled by the fitted temperature."
    return Table("Calibration metrics", caption, tuple(columns), rows)
