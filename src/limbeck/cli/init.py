"""`limbeck init`: a new recipe for the user's data, or from a shipped one."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._terminal import show, watch


def init(
    path: Annotated[Path, typer.Argument(help="The file to write, such as recipe.yaml.")] = Path(
        "recipe.yaml"
    ),
    source: Annotated[
        str | None, typer.Option("--from", help="Copy this shipped recipe, such as vision/digits.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your data: a folder with a folder of images or sounds per class, or a CSV file."
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The column of labels, or of numbers to predict.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The column of texts.")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="source:name, or source:name@checkpoint, such as timm:resnet18@a.pth."),
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="source:name, such as timm:resnet10t.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Check the recipe for your data.")
    ] = True,
) -> None:
    """Write a new recipe for your data, and check it; or copy a shipped one.

    At a terminal, without --data and --from, it requests what it needs.
    """
    from limbeck.core.files import write_text
    from limbeck.errors import InputError, Problem

    if path.suffix not in {".yaml", ".yml"}:
        raise InputError(Problem("PATH", str(path), "a file whose name ends in .yaml"))
    if path.exists():
        raise InputError(Problem("PATH", str(path), "a file that does not exist yet"))
    options = {"--label": label, "--text": text, "--teacher": teacher, "--student": student}
    if source is None and data is None and not any(options.values()) and _at_a_terminal():
        given = typer.prompt("Images, sounds or CSV file (empty: the digits example)", default="")
        data = Path(given) if given else None
        if data is not None and data.is_file():
            label = typer.prompt("Column of labels (empty: inferred)", default="") or None
    if data is None or source is not None:
        fix = "Give your data by --data."
        unused = [Problem(key, one, f"with --data. {fix}") for key, one in options.items() if one]
        if data is not None:
            unused.append(Problem("--from", source, "without --data"))
        if unused:
            raise InputError(*unused)
        chosen = source or "vision/digits"
        write_text(path, _copy(chosen, path))
        show(f"{path}: a copy of {chosen}. Change `data`, `teacher` and `student`, then:")
    else:
        from limbeck.cli._draft import Choices, draft
        from limbeck.pipeline.load_recipe import SHIPPED

        lines = draft(data, _name(path), Choices(label, text, teacher, student))
        write_text(path, f"# yaml-language-server: $schema={SHIPPED / 'schema.json'}\n{lines}")
        show(f"{path}: a recipe for {data}.")
        if check:
            _check(path)
    show(f"  {shlex.join(['limbeck', 'run', str(path)])}")


def _at_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _name(path: Path) -> str:
    """Return the name of a recipe from that of its file."""
    # A recipe's name must not contain other characters.
    return re.sub(r"[^A-Za-z0-9._-]", "", path.stem).lstrip("._-")[:100] or "recipe"


def _copy(source: str, path: Path) -> str:
    from limbeck.pipeline.load_recipe import SHIPPED, find

    # The schema's path is relative to the shipped file; elsewhere, the installed one is needed.
    copied = [f"# yaml-language-server: $schema={SHIPPED / 'schema.json'}"]
    copied += [
        f"name: '{_name(path)}'" if line.startswith("name:") else line
        for line in find(source).read_text(encoding="utf-8").splitlines()
        if "$schema" not in line
    ]
    return "\n".join(copied) + "\n"


def _check(path: Path) -> None:
    """Check the recipe as `limbeck check` does.

    Raises:
        InputError: The recipe does not fit the data or the models.
    """
    from limbeck.pipeline.load_recipe import resolve

    recipe = resolve(str(path))
    with watch() as progress:
        from limbeck.pipeline.check import check

        check(recipe, out=Path("runs") / recipe.name, watch=progress)
    show("Checked: no problem found.")
