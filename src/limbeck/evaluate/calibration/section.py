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
        "Can its confidence be trusted, and mended?",
        _lead(found),
        panels=tuple(panel for role, one in _sides(found) if (panel := _panel(role, one.scaled))),
        tables=(_table(found),),
    )


def _sides(found: Calibration) -> Iterator[tuple[Role, CalibrationSummary]]:
    yield "student", found.student
    if found.teacher is not None:
        yield "teacher", found.teacher


def _lead(found: Calibration) -> str:
    said = [
        f"the {role}'s at {fmt.number(one.temperature.value)}"
        + ("" if one.temperature.fitted else " (left as it was: those samples set it no bound)")
        for role, one in _sides(found)
    ]
    return (
        "A temperature above 1 says that a model was too sure of itself. Fitted on the validation "
        f"samples, {fmt.listing(said)}."
    )


def _panel(role: Role, scaled: Reliability) -> Panel | None:
    if not any(one.count for one in scaled.bins):
        return None
    title = f"Reliability of the {role} after temperature scaling"
    said = f"Expected calibration error {fmt.percent(scaled.ece)}."
    return Panel(
        title,
        f"{said} Test samples in {len(scaled.bins)} equal bins of top confidence.",
        reliability(scaled.bins, role, title=title, description=said),
    )


def _table(found: Calibration) -> Table:
    shown = [
        (Column(f"{role}{after}", role), figures)
        for role, one in _sides(found)
        for after, figures in (("", one.shipped), (", scaled", one.scaled))
    ]
    figures = [each for _, each in shown]
    rows = (
        Row("ECE, bins of equal width", tuple(fmt.percent(one.ece) for one in figures)),
        Row("ECE, bins of equal mass", tuple(fmt.percent(one.ece_equal_mass) for one in figures)),
        Row("ECE, class by class", tuple(fmt.percent(one.ece_class_wise) for one in figures)),
        Row(
            "Calibration error (RMS), debiased",
            tuple(fmt.percent(one.ece_debiased) for one in figures),
        ),
        Row("Largest gap of a bin", tuple(fmt.percent(one.mce) for one in figures)),
        Row("Brier score", tuple(fmt.number(one.brier) for one in figures)),
        Row("Negative log-likelihood, nats", tuple(fmt.number(one.nll) for one in figures)),
    )
    caption = "On the test samples, from the file that ships; scaled by the fitted temperature."
    return Table("Every way to count", caption, tuple(column for column, _ in shown), rows)
