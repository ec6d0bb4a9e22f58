"""Calibration of teacher and student: reliability diagrams."""

from __future__ import annotations

from limbeck.report import format as fmt
from limbeck.report.charts.reliability import reliability
from limbeck.report.figures import first
from limbeck.report.panels.panel import Panel
from limbeck.report.result import Link, RunResult


def calibration(result: RunResult) -> list[Panel]:
    """Draw the reliability diagrams of the teacher (if there is one) and of the exported file."""
    taught, shipped = result.teacher, result.shipped
    links = [shipped] if taught is None or taught is shipped else [taught, shipped]
    return [panel for link in links if (panel := _panel(link))]


def _panel(link: Link) -> Panel | None:
    measured = first(link)
    if measured is None or not any(one.count for one in measured.calibration.bins):
        return None
    found = measured.calibration
    title = f"Reliability: {link.label}"
    said = f"Expected calibration error {fmt.percent(found.ece)}, "
    said += f"negative log-likelihood {fmt.number(found.nll)} nats."
    return Panel(
        title,
        f"{said} Test samples in {len(found.bins)} equal bins of top confidence; on the dotted "
        "diagonal, confidence and share of right answers agree.",
        reliability(found.bins, link.role, title=title, description=said),
    )
