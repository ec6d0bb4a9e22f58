"""`limbeck check`: dry run of a recipe, which writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from limbeck.cli._options import AsJson, Overrides, RecipeName, RunFolder, TrustCode, load_recipe
from limbeck.cli._terminal import show, watch

if TYPE_CHECKING:
    from limbeck.errors import Problem
    from limbeck.pipeline.check import Checked


def check(
    recipe: RecipeName,
    set_: Overrides = None,
    out: RunFolder = None,
    as_json: AsJson = False,
    trust_code: TrustCode = False,
) -> None:
    """Check a recipe: load its data, build its models, try every stage; train and write nothing."""
    import json

    from limbeck.errors import InputError

    try:
        resolved = load_recipe(recipe, set_ or [], trusted=trust_code)
        folder = out if out is not None else Path("runs") / resolved.name
        with watch() as progress:
            from limbeck.pipeline.check import check as check_recipe

            checked = check_recipe(resolved, out=folder, watch=progress)
    except InputError as error:
        if not as_json:
            raise
        problems = [_record(problem) for problem in error.problems]
        typer.echo(json.dumps({"ok": False, "problems": problems}, indent=2))
        raise typer.Exit(error.exit_code) from error
    if as_json:
        result = {"ok": True, "problems": [], **checked.model_dump(mode="json")}
        typer.echo(json.dumps(result, indent=2))
    else:
        show("\n".join(_lines(checked)))


def _record(problem: Problem) -> dict[str, str]:
    given, allowed = problem.shown, problem.allowed
    return {"where": problem.where, "given": given, "allowed": allowed, "fix": problem.fix}


def _lines(checked: Checked) -> Iterator[str]:
    yield f"{checked.name}: no problem found."
    rows = ", ".join(f"{count:,} {split}" for split, count in checked.rows.items())
    yield f"  Data        {rows} rows, {checked.outputs}"
    for role, count in checked.parameters.items():
        yield f"  {role.capitalize():<10}  {count:,} parameters"
    yield f"  Stages      {', '.join(checked.stages)}"
    for seed, reused in checked.reused.items():
        seeded = f" (seed {seed})" if len(checked.reused) > 1 else ""
        remaining = ", ".join(checked.stages[len(reused) :]) or "nothing"
        done = f"reused: {', '.join(reused)}; " if reused else ""
        yield f"  A run{seeded} in {checked.out}: {done}to do: {remaining}"
    yield from (f"  Note        {note}" for note in checked.notes)
