"""`limbeck check`: dry run of a recipe, which writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli._terminal import show, watch
from limbeck.cli._trust import TrustCode, permit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limbeck.pipeline.check import Checked


def check(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a shipped recipe, such as digits.")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override a setting, as for `run`."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder that the run would use; runs/NAME if not given.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was found as JSON, problems included.")
    ] = False,
    trust_code: TrustCode = False,
) -> None:
    """Check a recipe: load its data, build its models, try every stage; train and write nothing."""
    import json

    from limbeck.errors import InputError
    from limbeck.pipeline.load_recipe import find, resolve

    try:
        resolved = resolve(recipe, set_ or [])
        permit(resolved, find(recipe), trusted=trust_code, overrides=set_ or [])
        folder = out if out is not None else Path("runs") / resolved.name
        with watch() as watching:
            from limbeck.pipeline.check import check as check_recipe

            checked = check_recipe(resolved, out=folder, watch=watching)
    except InputError as error:
        if as_json:
            problems = [_record(problem) for problem in error.problems]
            typer.echo(json.dumps({"ok": False, "problems": problems}, indent=2))
            raise typer.Exit(error.exit_code) from error
        raise
    if as_json:
        found = {"ok": True, "problems": [], **checked.model_dump(mode="json")}
        typer.echo(json.dumps(found, indent=2))
    else:
        show("\n".join(_lines(checked)))


def _record(problem: Any) -> dict[str, str]:
    given = str(problem).removeprefix(f"{problem.where}: got ").partition("; allowed: ")[0]
    return {
        "where": problem.where,
        "given": given,
        "allowed": problem.allowed,
        "fix": problem.fix,
    }


def _lines(checked: Checked) -> Iterator[str]:
    yield f"{checked.name}: no problem found."
    rows = ", ".join(f"{count:,} {split}" for split, count in checked.rows.items())
    yield f"  Data        {rows} rows, {checked.classes} classes"
    for role, count in checked.parameters.items():
        yield f"  {role.capitalize():<10}  {count:,} parameters"
    yield f"  Stages      {', '.join(checked.stages)}"
    for seed, reused in checked.reused.items():
        seeded = f" (seed {seed})" if len(checked.reused) > 1 else ""
        redone = checked.stages[len(reused) :]
        done = f"reused: {', '.join(reused)}; " if reused else ""
        yield f"  A run{seeded} in {checked.out}: {done}to do: {', '.join(redone) or 'nothing'}"
