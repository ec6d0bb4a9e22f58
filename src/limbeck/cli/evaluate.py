"""`limbeck evaluate`: ask a run's student more questions, beside its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._terminal import show, watch


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    questions: Annotated[
        str | None,
        typer.Option(help="Which, separated by commas; `limbeck list questions` names them."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=10, help="Test samples that the costly questions look at.")
    ] = 500,
) -> None:
    """Ask what the student kept: fidelity, calibration, robustness, fairness and more."""
    from limbeck.pipeline.evaluation import ask_again
    from limbeck.pipeline.stages.evaluate import Evaluate
    from limbeck.report.terminal import finding_lines

    asked = Evaluate(questions=questions.split(",") if questions else None, limit=limit)
    with watch() as watching:
        found = ask_again(run, asked, watch=watching)
    show("\n".join(finding_lines(found)))
    show(f"Report: {run / 'report.html'}")
