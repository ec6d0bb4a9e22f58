"""`limbeck sweep`: hyperparameter search over a recipe, with a Pareto front."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.cli._terminal import Quiet, show, watch
from limbeck.cli._trust import TrustCode, permit
from limbeck.sweep.sampler import Sampler


def sweep(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a shipped recipe, such as digits.")
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH=CHOICES",
            help="What to choose from: student.width=4,8,16 or PATH=low..high, "
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
    objective: Annotated[
        str,
        typer.Option(
            help="accuracy, and what is to be small: "
            "size, latency, flops, parameters, memory, energy."
        ),
    ] = "accuracy,size,latency",
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="LINES",
            help="Pick the most accurate that fits, such as "
            "size_kb=30,latency_ms=0.5,accuracy_drop=0.01.",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="How many in all; 20 if not given, or the whole grid."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which no further trial begins.")
    ] = None,
    sampler: Annotated[Sampler, typer.Option(help="Who chooses the settings.")] = Sampler.tpe,
    workers: Annotated[int, typer.Option(min=1, help="Processes that do trials at once.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampler.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The sweep's folder; runs/NAME-sweep if not given.")
    ] = None,
    trust_code: TrustCode = False,
    quiet: Quiet = False,
) -> None:
    """Search the settings of a recipe for the Pareto front; run again to resume."""
    from limbeck.pipeline.dry_run import gathered
    from limbeck.pipeline.load_recipe import find, resolve
    from limbeck.report.sweep import sweep_lines
    from limbeck.sweep.budget import limits_of
    from limbeck.sweep.plan import costs_of, plan
    from limbeck.sweep.space import space_of

    given: list[Callable[[], Any]] = [
        lambda: resolve(recipe, set_ or []),
        lambda: space_of(vary or [], space),
        lambda: costs_of(objective),
        lambda: None if budget is None else limits_of(budget),
    ]
    resolved, choices, costs, limits = gathered(given)
    permit(resolved, find(recipe), trusted=trust_code, overrides=[*(set_ or []), *(vary or [])])
    planned = plan(
        resolved,
        choices,
        costs=costs,
        out=out if out is not None else Path("runs") / f"{resolved.name}-sweep",
        sampler=sampler,
        trials=trials,
        timeout=timeout,
        seed=seed,
    )
    with watch(quiet=quiet) as watching:
        from limbeck.sweep.run import sweep as do

        result = do(planned, workers=workers, limits=limits, watch=watching)
    show("\n".join(sweep_lines(result, page=planned.out / "sweep.html")))
    if result.chosen is not None:
        _say_chosen(result.chosen.fits, planned.out / "chosen")


def _say_chosen(fits: bool, folder: Path) -> None:
    if not fits:
        raise typer.Exit(1)
    show(f"  Chosen: {folder}")
