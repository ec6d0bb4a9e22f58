"""`limbeck sweep`: hyperparameter search over a recipe, with a Pareto front."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.cli._options import Quiet, RecipeName, TrustCode, require_trust
from limbeck.cli._terminal import show, watch
from limbeck.sweep.sampler import Sampler, Selected


def sweep(
    recipe: RecipeName,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH=CHOICES",
            help="The choices: student.width=4,8,16 or PATH=low..high, "
            "with :STEP or :log after it.",
        ),
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(help="A YAML file of the same: each path with a list, or {low, high, step}."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override a setting in every trial."),
    ] = None,
    minimize: Annotated[
        str,
        typer.Option(
            help="The costs to minimise besides the task's score: "
            "size, latency, flops, parameters, memory, energy."
        ),
    ] = "size,latency",
    select: Annotated[
        Selected,
        typer.Option(
            help="Whose validation score is optimised; `baseline` tunes the label-only baseline, "
            "by --vary stages.distill.baseline.learning_rate=..."
        ),
    ] = Selected.student,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="LINES",
            help="Pick the best trial within these limits, such as "
            "size_kb=30,latency_ms=0.5,drop.accuracy=0.01.",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="The number of trials; 20 if not given, or the whole grid."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which no further trial begins.")
    ] = None,
    sampler: Annotated[
        Sampler, typer.Option(help="The sampler that chooses the settings.")
    ] = Sampler.tpe,
    workers: Annotated[int, typer.Option(min=1, help="Processes that run trials at once.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The sampler's seed.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The sweep's folder; runs/NAME-sweep if not given.")
    ] = None,
    trust_code: TrustCode = False,
    quiet: Quiet = False,
) -> None:
    """Search the settings of a recipe for the Pareto front; run again to resume."""
    from limbeck.errors import gathered
    from limbeck.pipeline.load_recipe import find, resolve
    from limbeck.report.sweep import sweep_lines
    from limbeck.sweep.budget import limits_of
    from limbeck.sweep.plan import costs_of, plan
    from limbeck.sweep.space import space_of

    overrides, varied = set_ or [], vary or []
    parts: list[Callable[[], Any]] = [
        lambda: resolve(recipe, overrides),
        lambda: space_of(varied, space),
        lambda: costs_of(minimize),
        lambda: None if budget is None else limits_of(budget),
    ]
    resolved, choices, costs, limits = gathered(parts)
    require_trust(resolved, find(recipe), trusted=trust_code, overrides=[*overrides, *varied])
    planned = plan(
        resolved,
        choices,
        costs=costs,
        out=out if out is not None else Path("runs") / f"{resolved.name}-sweep",
        sampler=sampler,
        trials=trials,
        timeout=timeout,
        seed=seed,
        select=select,
    )
    with watch(quiet=quiet) as progress:
        from limbeck.sweep.run import sweep as run_sweep

        result = run_sweep(planned, workers=workers, limits=limits, watch=progress)
    show("\n".join(sweep_lines(result, page=planned.out / "sweep.html")))
    if result.chosen is None:
        return
    if not result.chosen.fits:
        raise typer.Exit(1)
    show(f"  Chosen: {planned.out / 'chosen'}")
