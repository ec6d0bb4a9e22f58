"""`limbeck evaluate`: further evaluations of a run's student, paired with its teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.cli._options import AsJson, Quiet, TrustCode, require_trust
from limbeck.cli._terminal import show, watch


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    evaluations: Annotated[
        str | None,
        typer.Option(help="Which, separated by commas; `limbeck list evaluations` names them."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="EVALUATION.SETTING=VALUE",
            help="An evaluation's own setting, such as cost.previous=shipped/model.onnx.",
        ),
    ] = None,
    max_samples: Annotated[
        int, typer.Option(min=10, help="Test samples that the costly evaluations use.")
    ] = 300,
    trust_code: TrustCode = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run's student: fidelity, calibration, robustness, fairness and more.

    The exit code is 1 if an evaluation failed: the others are kept, and the report states why.
    """
    from pydantic import ValidationError

    from limbeck.errors import InputError
    from limbeck.evaluate.evaluation import EVALUATIONS, check_fit, fits
    from limbeck.pipeline.evaluation import reevaluate
    from limbeck.pipeline.load_recipe import parse_override, put_all
    from limbeck.pipeline.run_folder import MARK, recipe_of
    from limbeck.pipeline.stages.evaluate import Evaluate
    from limbeck.pipeline.validate import of_validation
    from limbeck.report.load import load_run
    from limbeck.report.verdict import comparison_lines
    from limbeck.tasks import TASKS, is_classifier, shares_inputs

    names = evaluations.split(",") if evaluations else EVALUATIONS.names()
    selected: dict[str, Any] = {name: {} for name in names}
    put_all(selected, dict(map(parse_override, settings or [])), where="--set")
    try:
        stage = Evaluate.model_validate({"evaluations": selected, "max_samples": max_samples})
    except ValidationError as error:
        raise InputError(*of_validation(error, Evaluate)) from error
    require_trust(recipe_of(run), run / MARK, trusted=trust_code)
    task = TASKS.load(load_run(run).task)
    classifier, shared = is_classifier(task), shares_inputs(task)
    if evaluations is not None:
        check_fit(names, classifier=classifier, shared=shared, where="--evaluations")
    else:
        kept = {
            name: settings_of_one
            for name, settings_of_one in selected.items()
            if fits(name, classifier=classifier, shared=shared)
        }
        stage = stage.model_copy(update={"evaluations": kept})
    with watch(quiet=quiet) as progress:
        result = reevaluate(run, stage, watch=progress)
    if as_json:
        typer.echo(json.dumps(result.model_dump(mode="json"), indent=2))
    else:
        show("\n".join(comparison_lines(result)))
        show(f"Report: {run / 'report.html'}")
    if result.failed:
        raise typer.Exit(1)
