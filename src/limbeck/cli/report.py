"""`limbeck report`: draw the page of a run anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Where the page goes; report.html in the run folder if not given."),
    ] = None,
) -> None:
    """Draw report.html from a run's run.json."""
    from limbeck.atomic import write_text
    from limbeck.report.load import load_run
    from limbeck.report.page import render_page
    from limbeck.report.terminal import verdict_lines

    result = load_run(run)
    target = out if out is not None else run / "report.html"
    write_text(target, render_page(result))
    typer.echo("\n".join(verdict_lines(result, report=target)))
