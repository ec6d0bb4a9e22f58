"""`limbeck run`: from a recipe to an exported student."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._options import (
    AsJson,
    Overrides,
    Quiet,
    RecipeName,
    RunFolder,
    TrustCode,
    load_recipe,
)
from limbeck.cli._terminal import show, watch


def run(
    recipe: RecipeName,
    set_: Overrides = None,
    out: RunFolder = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint of an interrupted run.")
    ] = False,
    trust_code: TrustCode = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: train, distil, quantise, export, measure, report.

    The exit code is 1 if an evaluation failed: the student and the report are kept without it.
    """
    resolved = load_recipe(recipe, set_ or [], trusted=trust_code)
    folder = out if out is not None else Path("runs") / resolved.name
    with watch(quiet=quiet) as progress:
        from limbeck.pipeline.runner import run as run_recipe

        result = run_recipe(resolved, out=folder, resume=resume, watch=progress)
    if os.environ.get("RANK", "0") == "0":  # the main process of a distributed run
        from limbeck.report.compare import as_records
        from limbeck.report.verdict import sentence, verdict_lines

        report = folder / "report.html"
        if as_json:
            (record,) = as_records([result])
            paths = {"folder": str(folder), "report": str(report)}
            typer.echo(json.dumps({"verdict": sentence(result), **record, **paths}, indent=2))
        else:
            show("\n".join(verdict_lines(result, report=report)))
    if result.evaluation is not None and result.evaluation.failed:
        raise typer.Exit(1)
