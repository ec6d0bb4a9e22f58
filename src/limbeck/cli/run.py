"""`limbeck run`: from a recipe to an exported student."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._terminal import Quiet, show, watch
from limbeck.cli._trust import TrustCode, permit


def run(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a shipped recipe, such as digits.")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Override a setting, such as stages.distill.epochs=5.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; runs/NAME if not given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint of an interrupted run.")
    ] = False,
    trust_code: TrustCode = False,
    quiet: Quiet = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures of the verdict as JSON.")
    ] = False,
) -> None:
    """Run a recipe: train, distil, quantise, export, measure, report.

    The exit code is 1 if an evaluation failed: the student and the report are kept without it.
    """
    from limbeck.pipeline.load_recipe import find, resolve

    resolved = resolve(recipe, set_ or [])
    permit(resolved, find(recipe), trusted=trust_code, overrides=set_ or [])
    folder = out if out is not None else Path("runs") / resolved.name
    with watch(quiet=quiet) as watching:
        from limbeck.pipeline.runner import run as run_recipe

        result = run_recipe(resolved, out=folder, resume=resume, watch=watching)
    if _is_first_process():
        from limbeck.report.compare import as_records
        from limbeck.report.verdict import sentence, verdict_lines

        if as_json:
            (record,) = as_records([result])
            places = {"folder": str(folder), "report": str(folder / "report.html")}
            typer.echo(json.dumps({"verdict": sentence(result), **record, **places}, indent=2))
        else:
            show("\n".join(verdict_lines(result, report=folder / "report.html")))
    if result.evaluation is not None and result.evaluation.failed:
        raise typer.Exit(1)


def _is_first_process() -> bool:
    """Return whether this is the main process of a distributed run."""
    return os.environ.get("RANK", "0") == "0"
