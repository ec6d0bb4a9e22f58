"""`limbeck new`: a recipe to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new(
    path: Annotated[Path, typer.Argument(help="The file to write, such as recipe.yaml.")] = Path(
        "recipe.yaml"
    ),
    source: Annotated[
        str, typer.Option("--from", help="The shipped recipe to begin with.")
    ] = "vision/digits",
) -> None:
    """Write a recipe of your own, beginning with a shipped one."""
    from limbeck.atomic import write_text
    from limbeck.errors import InputError, Problem
    from limbeck.pipeline.resolve import find, resolve

    if path.exists():
        raise InputError(Problem("PATH", str(path), "a file that does not exist yet"))
    text = find(source).read_text(encoding="utf-8")
    name = path.stem if path.stem[:1].isalnum() else "recipe"
    lines = [f"name: {name}" if line.startswith("name:") else line for line in text.splitlines()]
    # The schema's place is relative to the shipped file; a recipe elsewhere names the installed one.
    lines = [line for line in lines if "$schema" not in line]
    schema = Path(__file__).parent.parent / "recipes" / "schema.json"
    write_text(path, "\n".join([f"# yaml-language-server: $schema={schema}", *lines]) + "\n")
    resolve(str(path))
    typer.echo(
        f"{path}: a copy of {source}. Change `data`, `teacher` and `student`, then: limbeck run {path}"
    )
