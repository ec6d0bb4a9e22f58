"""`limbeck layers`: the module paths that a forward hook can capture, with output shapes."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli._options import AsJson, TrustCode, load_recipe
from limbeck.cli._terminal import show

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    Forward = Callable[[nn.Module], object]

TOKENS = 16
"""The number of tokens in a text model's example input."""


class Which(StrEnum):
    """A model of a recipe."""

    teacher = "teacher"
    student = "student"


def layers(
    model: Annotated[
        str, typer.Argument(help="A recipe, or source:name such as limbeck:resnet20.")
    ],
    which: Annotated[Which, typer.Option("--of", help="Which model of a recipe.")] = Which.student,
    classes: Annotated[int, typer.Option(help="For source:name: how many classes.", min=2)] = 10,
    shape: Annotated[
        str, typer.Option(help="For source:name: channels,height,width of an image.")
    ] = "3,32,32",
    depth: Annotated[
        int | None, typer.Option(help="Show modules down to this many levels only.", min=1)
    ] = None,
    as_json: AsJson = False,
    trust_code: TrustCode = False,
) -> None:
    """List every module of a model by its path, with its output shape and number of parameters."""
    import json

    from limbeck.errors import InputError, Problem
    from limbeck.taps import list_paths

    source, colon, name = model.partition(":")
    module, forward = (
        _named(source, name, classes, shape) if colon else _of_recipe(model, which, trust_code)
    )
    try:
        paths = list_paths(module, forward)
    # The model is third-party code: any error type can occur.
    except Exception as error:
        fix = f"It raised {type(error).__name__}: {error}"
        allowed = "a model that takes such an image: give --shape"
        raise InputError(Problem("MODEL", f"{model} with {shape}", allowed, fix)) from error
    if depth is not None:
        paths = [one for one in paths if one.path.count(".") < depth]
    if as_json:
        typer.echo(json.dumps([one._asdict() for one in paths], indent=2))
        return
    rows = [(one.path, one.type, _shape(one.shape), f"{one.parameters:,}") for one in paths]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, count in rows:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False))
        show(f"{line}  {count:>{widths[-1]}}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "n" + "".join(f" x {size}" for size in shape[1:])


def _named(source: str, name: str, classes: int, shape: str) -> tuple[nn.Module, Forward]:
    import inspect

    import torch
    from pydantic import ValidationError

    from limbeck.errors import InputError, Problem
    from limbeck.models.build import build
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.validate import of_validation

    try:
        channels, height, width = (int(size) for size in shape.split(","))
    except ValueError:
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise InputError(Problem("--shape", shape, "three whole numbers, such as 3,32,32"))
    try:
        spec = ModelSpec(source=source, name=name)
    except ValidationError as error:
        raise InputError(*of_validation(error, ModelSpec, "MODEL")) from error
    built = build(spec, classes=classes, channels=channels).eval()
    if "input_ids" in inspect.signature(built.forward).parameters:
        tokens = torch.zeros(2, TOKENS, dtype=torch.long)
        return built, lambda module: module(input_ids=tokens)
    return built, lambda module: module(torch.zeros(2, channels, height, width))


def _of_recipe(name: str, which: Which, trusted: bool) -> tuple[nn.Module, Forward]:
    import tempfile
    from pathlib import Path

    from limbeck.data.load import load
    from limbeck.errors import InputError, Problem
    from limbeck.models.build import build
    from limbeck.tasks import TASKS

    recipe = load_recipe(name, trusted=trusted)
    spec = recipe.student
    if which is Which.teacher:
        spec = recipe.teachers[0] if recipe.teachers else None
    if spec is None:
        raise InputError(Problem("--of", which.value, f"a model that {name} has"))
    with tempfile.TemporaryDirectory() as folder:
        data = load(recipe.data, workdir=Path(folder))
    task = TASKS.load(recipe.task).of(data)
    batch = data.validation.__getitems__([0, 1])
    inputs: dict[str, Any] = {"classes": len(data.outputs), **data.preprocess.model_inputs()}
    return build(spec, **inputs).eval(), lambda module: task.outputs(module, batch)
