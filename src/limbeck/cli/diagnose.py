"""`limbeck diagnose`: why a run's distillation gains over its baseline, or does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._options import AsJson, Quiet, TrustCode, require_trust
from limbeck.cli._terminal import show, watch


def diagnose(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    rows: Annotated[
        int, typer.Option(min=10, max=1_000_000, help="Training rows that are predicted.")
    ] = 2000,
    trust_code: TrustCode = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Determine why a distillation gains over labels alone, or does not.

    The diagnosis becomes a section of the run's report, as that of `limbeck evaluate`.
    """
    from limbeck.errors import InputError, LimbeckError, Problem
    from limbeck.evaluate.diagnosis import Diagnosis
    from limbeck.evaluate.diagnosis.section import lines
    from limbeck.pipeline.evaluation import reevaluate
    from limbeck.pipeline.run_folder import MARK, recipe_of
    from limbeck.pipeline.stages.distill import Distill
    from limbeck.pipeline.stages.evaluate import Evaluate

    recipe = recipe_of(run)
    require_trust(recipe, run / MARK, trusted=trust_code)
    stages = [stage for _, stage in recipe.parsed_stages() if isinstance(stage, Distill)]
    if not stages:
        allowed = "a run with a stage `distill`"
        raise InputError(Problem("RUN", f"{run}, without a distillation", allowed))
    if not any(stage.baseline or stage.needs_teacher for stage in stages):
        allowed = "a distillation with a teacher or a label-only baseline"
        raise InputError(Problem("RUN", f"{run}, with neither", allowed))
    stage = Evaluate.model_validate({"evaluations": {"diagnosis": {"rows": rows}}})
    with watch(quiet=quiet) as progress:
        result = reevaluate(run, stage, watch=progress)
    if result.failed:
        raise LimbeckError(f"The diagnosis failed: {result.failed[0].reason}")
    found = result.result_of(Diagnosis)
    if found is None:  # one evaluation was selected, and did not fail
        raise LimbeckError("The diagnosis has no result.")
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    else:
        show("\n".join(lines(found)))
        show(f"Report: {run / 'report.html'}")
