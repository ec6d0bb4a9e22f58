"""`limbeck list`: available names, with one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from limbeck.cli._docstrings import module_names, of_module, of_modules, of_package
from limbeck.cli._terminal import show
from limbeck.core.plugins import Plugin, plugins
from limbeck.core.registry import BUILTIN, camel_case


class Kind(StrEnum):
    """A kind of object that can be listed."""

    losses = "losses"
    methods = "methods"
    tasks = "tasks"
    schemes = "schemes"
    stages = "stages"
    evaluations = "evaluations"
    models = "models"
    recipes = "recipes"
    studies = "studies"


GROUPS = {
    Kind.losses: "limbeck.losses",
    Kind.methods: "limbeck.methods",
    Kind.tasks: "limbeck.tasks",
    Kind.schemes: "limbeck.schemes",
    Kind.stages: "limbeck.stages",
    Kind.evaluations: "limbeck.evaluations",
    Kind.models: "limbeck.model_sources",
}
"""The groups of entry points by which packages add names."""


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON: name to description and origin.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(help="For models: list those of one source, such as timm; it is imported."),
    ] = None,
) -> None:
    """List losses, methods, tasks, schemes, stages, evaluations, models, recipes or studies.

    The origin of a name is limbeck itself (built-in), or another package that adds it.
    """
    from limbeck.errors import InputError, Problem

    if source is not None and kind is not Kind.models:
        raise InputError(Problem("--source", source, "with `limbeck list models` only"))
    if source is not None:
        from limbeck.models.spec import names

        lines = {f"{source}:{name}": "" for name in names(source)}
    else:
        lines = _LISTS[kind]()
    added = {} if source is not None else _added(kind, list(lines))
    listed = {name: {"description": line, "origin": BUILTIN} for name, line in lines.items()}
    listed |= {
        name: {"description": one.summary, "origin": one.origin} for name, one in added.items()
    }
    if as_json:
        typer.echo(json.dumps(dict(sorted(listed.items())), indent=2))
        return
    wide = max((len(name) for name in listed), default=0)
    origins = max((len(one["origin"]) for one in listed.values()), default=0)
    for name, one in sorted(listed.items()):
        show(f"{name:<{wide}}  {one['origin']:<{origins}}  {one['description']}".rstrip())
    if not listed:
        typer.echo(f"There are no {kind.value} yet.")


def _added(kind: Kind, builtin: list[str]) -> dict[str, Plugin]:
    """Return the names of a kind that other packages add."""
    if kind not in GROUPS:
        return {}
    found = plugins(GROUPS[kind], kind=kind.value, builtin=builtin)
    if kind is Kind.models:  # a source is listed by its command
        return {
            f"{name}:...": replace(one, summary=f"limbeck list models --source {name}")
            for name, one in found.items()
        }
    return found


def _losses() -> dict[str, str]:
    losses = of_package("limbeck.losses")
    return {name: f"{one.line} {one.source}".rstrip() for name, one in losses.items()}


def _methods() -> dict[str, str]:
    lines = {}
    for name, one in of_package("limbeck.objective.methods").items():
        required = f"Requires {', '.join(one.required)}. " if one.required else ""
        lines[name] = f"{one.line} {required}{one.source}".rstrip()
    return lines


def _modules(
    package: str, attribute: Callable[[str], str], *, but: tuple[str, ...] = ()
) -> dict[str, str]:
    """Return the modules of a package with the first docstring line of the object each defines."""
    found = {
        name: of_module(f"{package}.{name}", attribute(name)) for name in module_names(package)
    }
    return {name: one.line for name, one in found.items() if one.docstring and name not in but}


def _models() -> dict[str, str]:
    """Return limbeck's own models, and the command that lists those of each library."""
    nets = sorted(of_modules("limbeck.models.nets").items())
    libraries = {
        f"{name}:...": f"limbeck list models --source {name}"
        for name in module_names("limbeck.models.sources")
        if name != "limbeck"
    }
    libraries["python:..."] = "a model of your own: python:file.py:function"
    return {f"limbeck:{name}": one.line for name, one in nets} | libraries


def _recipes() -> dict[str, str]:
    from limbeck.pipeline.load_recipe import read, shipped_recipes

    return {
        name: str(read(path).get("description", "")) for name, path in shipped_recipes().items()
    }


def _studies() -> dict[str, str]:
    from limbeck.pipeline.load_recipe import read
    from limbeck.studies.study import shipped

    return {name: str(read(path).get("claim", "")) for name, path in shipped().items()}


_LISTS: dict[Kind, Callable[[], dict[str, str]]] = {
    Kind.losses: _losses,
    Kind.methods: _methods,
    Kind.tasks: lambda: _modules("limbeck.tasks", camel_case, but=("task", "details")),
    Kind.schemes: lambda: _modules("limbeck.schemes", camel_case, but=("scheme",)),
    Kind.stages: lambda: _modules("limbeck.pipeline.stages", camel_case),
    Kind.evaluations: lambda: _modules(
        "limbeck.evaluate", lambda name: "evaluate", but=("evaluation",)
    ),
    Kind.models: _models,
    Kind.recipes: _recipes,
    Kind.studies: _studies,
}
