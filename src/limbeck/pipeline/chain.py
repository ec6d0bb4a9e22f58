"""Can these stages follow one another? Asked before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.errors import Problem

if TYPE_CHECKING:
    from limbeck.pipeline.recipe import Recipe
    from limbeck.pipeline.stage import Stage


def check_chain(recipe: Recipe, stages: list[tuple[str, Stage]]) -> list[Problem]:
    """Walk the stages and note where one needs what none before it has made.

    Returns:
        The problems, in the order of the stages.
    """
    problems = []
    made: set[str] = set()
    if recipe.teachers and all(spec.weights for spec in recipe.teachers):
        made.add("teacher")
    for number, (name, stage) in enumerate(stages):
        where = f"stages.{number}.{name}"
        problems += [
            Problem(where, "no " + need, f"a stage before it that makes a {need}", _fix(need))
            for need in stage.needed()
            if need not in made
        ]
        problems += _models_named(recipe, stage, where)
        made.update(stage.makes)
    return problems


def _models_named(recipe: Recipe, stage: Stage, where: str) -> list[Problem]:
    missing = []
    if "teacher" in stage.makes and not recipe.teachers:
        missing.append("teacher")
    if "student" in stage.makes and recipe.student is None:
        missing.append("student")
    return [Problem(model, "nothing", f"a model, since {where} makes one") for model in missing]


def _fix(need: str) -> str:
    return {
        "teacher": "Put a `teach` stage before it, or give `teacher.weights`.",
        "student": "Put a `distill` stage before it.",
    }.get(need, "")
