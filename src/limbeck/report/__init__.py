"""The report of a run: an HTML page, a model card and lines for the terminal."""

from limbeck.report.card import render_card
from limbeck.report.compare import render_comparison, render_comparison_page
from limbeck.report.load import load_run
from limbeck.report.page import render_page
from limbeck.report.result import RunResult
from limbeck.report.verdict import verdict_lines

__all__ = [
    "RunResult",
    "load_run",
    "render_card",
    "render_comparison",
    "render_comparison_page",
    "render_page",
    "verdict_lines",
]
