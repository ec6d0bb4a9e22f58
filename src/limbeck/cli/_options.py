"""Options that several commands share, and the confirmation that replaces `--trust-code`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli._terminal import show_error

if TYPE_CHECKING:
    from limbeck.pipeline.recipe import Recipe

RecipeName = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a shipped recipe, such as digits.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Report no progress, only the result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Override a setting, such as stages.distill.epochs=5."
    ),
]
RunFolder = Annotated[Path | None, typer.Option(help="The run folder; runs/NAME if not given.")]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Import the code that a recipe from outside the current folder names."
    ),
]


def load_recipe(name: str, overrides: Sequence[str] = (), *, trusted: bool) -> Recipe:
    """Load a recipe whose code may be imported.

    Raises:
        InputError: The recipe is invalid, or its code is not trusted.
    """
    from limbeck.pipeline.load_recipe import find, resolve

    recipe = resolve(name, overrides)
    require_trust(recipe, find(name), trusted=trusted, overrides=overrides)
    return recipe


def require_trust(
    recipe: Recipe, source: Path, *, trusted: bool, overrides: Sequence[str] = ()
) -> None:
    """Check that the recipe's code may be imported; at a terminal, request a confirmation.

    Raises:
        InputError: The code is not trusted.
    """
    from limbeck.errors import InputError
    from limbeck.pipeline import trust

    try:
        trust.require_trust(recipe, source, trusted=trusted, overrides=overrides)
    except InputError as error:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        for problem in error.problems:
            show_error(f"{problem.where}: {problem.given}, from {source}")
        if not typer.confirm("Import this code?", default=False, err=True):
            raise
