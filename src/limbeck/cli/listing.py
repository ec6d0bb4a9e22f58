"""`limbeck list`: what there is, by name, with one line each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from limbeck.cli._terminal import show


class Kind(StrEnum):
    """What can be listed."""

    losses = "losses"
    methods = "methods"
    tasks = "tasks"
    stages = "stages"
    questions = "questions"
    recipes = "recipes"
    studies = "studies"


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: name to one line.")] = False,
) -> None:
    """List losses, methods, tasks, stages, questions, recipes or studies."""
    found = _LISTS[kind]()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    width = max((len(name) for name in found), default=0)
    for name, line in found.items():
        show(f"{name:<{width}}  {line}".rstrip())
    if not found:
        typer.echo(f"There are no {kind.value} yet.")


def _line(thing: Any) -> str:
    """Take the first line of what something says of itself."""
    return (inspect.getdoc(thing) or "").split("\n", 1)[0]


def _source(thing: Any) -> str:
    """Take the papers that something says it is from, in brackets; nothing if it says none."""
    text = " ".join((inspect.getdoc(thing) or "").split())
    before, _, source = text.rpartition("Source: ")
    return f"({source.rstrip('.')})" if before else ""


def _found(module: Any) -> list[tuple[str, Any]]:
    return [(name, module.find(name)) for name in sorted(module.__all__)]


def _losses() -> dict[str, str]:
    from limbeck import losses

    return {name: f"{_line(of)} {_source(of)}" for name, of in _found(losses)}


def _methods() -> dict[str, str]:
    from limbeck import methods

    return {name: f"{_line(of)} {_source(of)}" for name, of in _found(methods)}


def _tasks() -> dict[str, str]:
    from limbeck.tasks import TASKS

    return {name: _line(TASKS.load(name)) for name in TASKS.names()}


def _stages() -> dict[str, str]:
    from limbeck.pipeline.stages import STAGES

    return {name: _line(STAGES.load(name)) for name in STAGES.names()}


def _questions() -> dict[str, str]:
    from limbeck.evaluate.questions import QUESTIONS

    return {name: _line(QUESTIONS.load(name)) for name in QUESTIONS.names()}


def _recipes() -> dict[str, str]:
    from limbeck.pipeline.reading import read
    from limbeck.pipeline.resolve import shipped_recipes

    return {
        name: str(read(path).get("description", "")) for name, path in shipped_recipes().items()
    }


def _studies() -> dict[str, str]:
    from limbeck.registry import Registry

    studies = Registry("limbeck.studies", kind="study", attribute="study")
    return {name: _line(studies.load(name)) for name in studies.names()}


_LISTS: dict[Kind, Callable[[], dict[str, str]]] = {
    Kind.losses: _losses,
    Kind.methods: _methods,
    Kind.tasks: _tasks,
    Kind.stages: _stages,
    Kind.questions: _questions,
    Kind.recipes: _recipes,
    Kind.studies: _studies,
}
