"""`limbeck init`: a new recipe from a shipped one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._terminal import show


def init(
    path: Annotated[Path, typer.Argument(help="The file to write, such as recipe.yaml.")] = Path(
        "recipe.yaml"
    ),
    source: Annotated[
        str, typer.Option("--from", help="The shipped recipe to begin with.")
    ] = "vision/digits",
) -> None:
    """Write a new recipe, as a copy of a shipped one."""
    from limbeck.core.files import write_text
    from limbeck.errors import InputError, Problem
    from limbeck.pipeline.load_recipe import SHIPPED, find

    if path.suffix not in {".yaml", ".yml"}:
        raise InputError(Problem("PATH", str(path), "a file whose name ends in .yaml"))
    if path.exists():
        raise InputError(Problem("PATH", str(path), "a file that does not exist yet"))
    lines = find(source).read_text(encoding="utf-8").splitlines()
    # A recipe's name must not contain other characters.
    name = re.sub(r"[^A-Za-z0-9._-]", "", path.stem).lstrip("._-")[:100] or "recipe"
    # The schema's path is relative to the shipped file; elsewhere, the installed one is needed.
    copied = [f"# yaml-language-server: $schema={SHIPPED / 'schema.json'}"]
    copied += [
        f"name: '{name}'" if line.startswith("name:") else line
        for line in lines
        if "$schema" not in line
    ]
    write_text(path, "\n".join(copied) + "\n")
    show(f"{path}: a copy of {source}. Change `data`, `teacher` and `student`, then:")
    show(f"  {shlex.join(['limbeck', 'run', str(path)])}")
