"""The option `--trust-code`, and the confirmation at a terminal that replaces it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli._terminal import complain

if TYPE_CHECKING:
    from limbeck.pipeline.recipe import Recipe

TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Import the code that a recipe from outside the current folder names.",
    ),
]


def permit(recipe: Recipe, source: Path, *, trusted: bool, overrides: Sequence[str] = ()) -> None:
    """Check that the recipe's code may be imported; at a terminal, ask the user.

    Raises:
        InputError: The code is not trusted.
    """
    from limbeck.errors import InputError
    from limbeck.pipeline.trust import require_trust

    try:
        require_trust(recipe, source, trusted=trusted, overrides=overrides)
    except InputError as error:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        for problem in error.problems:
            complain(f"{problem.where}: {problem.given}, from {source}")
        if not typer.confirm("Import this code?", default=False, err=True):
            raise
