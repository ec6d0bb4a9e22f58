"""`limbeck layers`: the paths that a feature term can tap, with the shapes that come out there."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from limbeck.models.spec import ModelSpec


class Which(StrEnum):
    """Which model of a recipe."""

    teacher = "teacher"
    student = "student"


def layers(
    model: Annotated[
        str, typer.Argument(help="A recipe, or source:name such as limbeck:resnet20.")
    ],
    which: Annotated[Which, typer.Option("--of", help="Which model of a recipe.")] = Which.student,
    classes: Annotated[int, typer.Option(help="For source:name: how many classes.", min=2)] = 10,
    shape: Annotated[
        str, typer.Option(help="For source:name: channels,height,width of a picture.")
    ] = "3,32,32",
) -> None:
    """Show every module of a model by its path, with the shape of its output and its parameters."""
    from limbeck.taps import list_paths

    source, colon, name = model.partition(":")
    built, run = (
        _named(source, name, classes, shape)
        if colon and not source.endswith((".yaml", ".yml"))
        else _of_recipe(model, which)
    )
    rows = [
        (found.path, found.type, _shape(found.shape), f"{found.parameters:,}")
        for found in list_paths(built, run)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for path, kind, size, count in rows:
        typer.echo(f"{path:<{widths[0]}}  {kind:<{widths[1]}}  {size:<{widths[2]}}  {count:>12}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "n" + "".join(f" x {size}" for size in shape[1:])


def _named(
    source: str, name: str, classes: int, shape: str
) -> tuple[nn.Module, Callable[[nn.Module], object]]:
    import torch

    from limbeck.errors import InputError, Problem
    from limbeck.models.build import build
    from limbeck.models.spec import ModelSpec

    try:
        channels, height, width = (int(size) for size in shape.split(","))
    except ValueError as error:
        raise InputError(
            Problem("--shape", shape, "three whole numbers, such as 3,32,32")
        ) from error
    built = build(ModelSpec(source=source, name=name), classes=classes, channels=channels)
    return built.eval(), lambda module: module(torch.zeros(2, channels, height, width))


def _of_recipe(name: str, which: Which) -> tuple[nn.Module, Callable[[nn.Module], object]]:
    import tempfile
    from pathlib import Path

    from limbeck.data.load import load
    from limbeck.errors import InputError, Problem
    from limbeck.models.build import build
    from limbeck.pipeline.resolve import resolve
    from limbeck.tasks import TASKS

    recipe = resolve(name)
    specs: list[ModelSpec] = (
        recipe.teachers if which is Which.teacher else [recipe.student] if recipe.student else []
    )
    if not specs:
        raise InputError(Problem("--of", which.value, f"a model that {name} has"))
    with tempfile.TemporaryDirectory() as folder:
        data = load(recipe.data, workdir=Path(folder))
    task = TASKS.load(recipe.task)(classes=data.classes)
    batch: dict[str, Tensor] = data.validation.__getitems__([0, 1])
    return build(
        specs[0], classes=len(data.classes), **data.preprocess.model_inputs()
    ).eval(), lambda module: task.outputs(module, batch)
