"""`limbeck report`: regenerate the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._terminal import show


def report(
    run: Annotated[Path, typer.Argument(help="A run folder, or its run.json.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Where the page goes; report.html beside run.json if not given."),
    ] = None,
) -> None:
    """Draw report.html from a run's run.json."""
    from limbeck.core.files import write_text
    from limbeck.report.load import load_run
    from limbeck.report.page import render_page
    from limbeck.report.verdict import verdict_lines

    result = load_run(run)
    folder = run if run.is_dir() else run.parent
    target = out if out is not None else folder / "report.html"
    write_text(target, render_page(result))
    show("\n".join(verdict_lines(result, report=target)))
