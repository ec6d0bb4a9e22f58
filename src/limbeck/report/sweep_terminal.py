"""Terminal output of `limbeck sweep`: the outcome, the front, and the path of the page."""

from __future__ import annotations

from os import PathLike

from limbeck.report import format as fmt
from limbeck.report.sweep_page import counts, head, rows, sentence
from limbeck.report.sweep_result import SweepResult


def sweep_lines(result: SweepResult, *, page: str | PathLike[str]) -> list[str]:
    """Write a sweep as lines of plain text.

    Args:
        result: The result of the sweep.
        page: The path of the page; it becomes the last line.
    """
    shown = [row for row in rows(result) if row.kind in {"front", "knee"}]
    table = [
        ("trial", *head(result), "standing"),
        *((str(row.number), *row.cells, row.standing) for row in shown),
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [sentence(result), "", "  On the front, from cheap to dear:"]
    for cells in table:
        padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append(f"  {'  '.join(padded)}".rstrip())
    return [
        *lines,
        "",
        f"  {fmt.plural(len(result.trials), 'trial')}: {counts(result)}",
        f"  Page: {page}",
    ]
