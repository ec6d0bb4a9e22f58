"""`limbeck compare`: comparison of several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._terminal import show


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    html: Annotated[Path | None, typer.Option(help="Write a page with the same table.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
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
