"""`limbeck report` and `limbeck compare`: the report of one run, and the comparison of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._options import AsJson
from limbeck.cli._terminal import show


def report(
    run: Annotated[Path, typer.Argument(help="A run folder, or its run.json.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The path of the page; report.html beside run.json if not given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw report.html from a run's run.json."""
    import json

    from limbeck.core.files import write_text
    from limbeck.report.compare import as_records
    from limbeck.report.load import load_run
    from limbeck.report.page import render_page
    from limbeck.report.verdict import sentence, verdict_lines

    result = load_run(run)
    folder = run if run.is_dir() else run.parent
    target = out if out is not None else folder / "report.html"
    write_text(target, render_page(result))
    if as_json:
        (record,) = as_records([result])
        written = {"verdict": sentence(result), **record, "report": str(target)}
        typer.echo(json.dumps(written, indent=2))
    else:
        show("\n".join(verdict_lines(result, report=target)))


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    html: Annotated[Path | None, typer.Option(help="Write a page with the same table.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare several runs side by side."""
    import json

    from limbeck.core.files import write_text
    from limbeck.errors import InputError, Problem
    from limbeck.report.compare import as_records, render_comparison, render_comparison_page
    from limbeck.report.load import load_run

    if len(runs) < 2:
        raise InputError(Problem("RUN", [str(run) for run in runs], "two run folders or more"))
    results = [load_run(run) for run in runs]
    if as_json:
        typer.echo(json.dumps(as_records(results), indent=2, allow_nan=False))
    else:
        show(render_comparison(results))
    if html is not None:
        write_text(html, render_comparison_page(results))
        if not as_json:
            show(f"Page: {html}")
