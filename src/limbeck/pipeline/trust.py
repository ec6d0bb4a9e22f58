"""Trust checks of recipes with user code, before any import."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.registry import PYTHON, is_own
from limbeck.errors import InputError, Problem
from limbeck.pipeline.stage_order import stage_paths

if TYPE_CHECKING:
    from limbeck.pipeline.recipe import Recipe

OPTION, VARIABLE = "--trust-code", "LIMBECK_TRUST_CODE"


def named_code(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the callables that a recipe refers to, with their paths, without importing.

    Example:
        >>> from limbeck.pipeline.load_recipe import resolve
        >>> student = "student={source: python, name: 'nets.py:build'}"
        >>> named_code(resolve("digits", [student]))
        [('student.name', 'nets.py:build')]
    """
    models = [*zip(recipe.teacher_paths, recipe.teachers, strict=True)]
    models += [("student", recipe.student)] if recipe.student else []
    return [
        *([("task", recipe.task.removeprefix(PYTHON))] if is_own(recipe.task) else []),
        *([("data.name", recipe.data.name)] if recipe.data.source == "python" else []),
        *((f"{where}.name", spec.name) for where, spec in models if spec.source == "python"),
        *(one for path, stage in _stages(recipe) for one in _in_settings(stage, path)),
    ]


def _stages(recipe: Recipe) -> Iterator[tuple[str, object]]:
    entries = [entry for stage in recipe.stages for entry in stage.items()]
    paths = stage_paths([name for name, _ in entries])
    yield from zip(paths, (settings for _, settings in entries), strict=True)


def _in_settings(content: object, where: str) -> Iterator[tuple[str, str]]:
    """Yield `python:` names, as keys and as values, at any depth."""
    if isinstance(content, str) and is_own(content):
        yield where, content.removeprefix(PYTHON)
    elif isinstance(content, Mapping):
        for key, value in content.items():
            if is_own(str(key)):
                yield where, str(key).removeprefix(PYTHON)
            yield from _in_settings(value, f"{where}.{key}")
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from _in_settings(value, f"{where}.{number}")


def require_trust(
    recipe: Recipe, source: Path, *, trusted: bool = False, overrides: Sequence[str] = ()
) -> None:
    """Raise unless the code of a recipe may be imported.

    A recipe under the current folder, links resolved, and code given on the command line are
    trusted. Others need `--trust-code`, or LIMBECK_TRUST_CODE=1 in the environment.

    Args:
        recipe: The recipe.
        source: The file or run folder that it was read from.
        trusted: Whether the user passed the option.
        overrides: The `--set` options, whose code is trusted.

    Raises:
        InputError: The recipe is elsewhere and refers to code; lists each name with its path.
    """
    if trusted or os.environ.get(VARIABLE) == "1":
        return
    if source.resolve().is_relative_to(Path.cwd().resolve()):
        return
    allowed = "code of a recipe under the current folder, or with permission"
    fix = f"{source.absolute()} would import it: read it, then add {OPTION} or set {VARIABLE}=1."
    given = "\n".join(overrides)
    problems = [
        Problem(where, f"python: {name}", allowed, fix)
        for where, name in named_code(recipe)
        if name not in given
    ]
    if problems:
        raise InputError(*problems)
