"""Stage order checks, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from limbeck.errors import Problem

if TYPE_CHECKING:
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.recipe import Recipe
    from limbeck.pipeline.stage import Stage


FIXES = {
    "teacher": "Put a `train_teacher` stage before it, or give `teacher.checkpoint`, or put `load` "
    "before it for a teacher whose own code loads its weights.",
    "student": "Put a `distill` stage before it.",
    "float student": "Put a `distill` stage before it; a file is quantised once, and last.",
}


def check_stage_order(recipe: Recipe, stages: list[tuple[str, Stage]]) -> list[Problem]:
    """Check that each stage's requirements are produced by earlier stages.

    Returns:
        The problems, in the order of the stages.
    """
    return [
        *_walk(recipe, stages),
        *_models_named(recipe, stages),
        *_teacher_comes_from(recipe, stages),
        *_precisions(stages),
        *_files_last(stages),
        *_quantized_once(stages),
        *_budget(recipe),
    ]


def loads_teacher(recipe: Recipe, stages: list[tuple[str, Stage]]) -> bool:
    """Return whether the teacher has trained weights that no stage of the recipe loads."""
    given = bool(recipe.teachers) and all(map(_has_weights, recipe.teachers))
    return given and not any("teacher" in stage.made() for _, stage in stages)


def _has_weights(spec: ModelSpec) -> bool:
    trained = spec.checkpoint is not None or spec.path is not None
    return trained and spec.loading.head is None  # a fresh head is untrained


def _walk(recipe: Recipe, stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    made = {"teacher"} if loads_teacher(recipe, stages) else set[str]()
    for number, (name, stage) in enumerate(stages):
        where = f"stages.{number}.{name}"
        for need in stage.needed(recipe):
            if need not in made:
                allowed = f"a stage before it that makes a {need}"
                yield Problem(where, f"no {need}", allowed, FIXES.get(need, ""))
        yield from (
            Problem(f"{where}.{problem.where}", problem.given, problem.allowed, problem.fix)
            for problem in stage.validate_in(recipe)
        )
        made = (made - set(stage.spent())) | set(stage.made())


def _models_named(recipe: Recipe, stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    makers = {what: (name, stage) for name, stage in reversed(stages) for what in stage.made()}
    if "teacher" in makers and not recipe.teachers:
        yield Problem("teacher", "nothing", f"a model, since `{makers['teacher'][0]}` makes one")
    if "student" not in makers or recipe.student is not None:
        return
    name, stage = makers["student"]
    if not stage.starts_from_teacher:
        yield Problem("student", "nothing", f"a model, since `{name}` makes one")
    elif recipe.student_spec is None:
        allowed = "a model, or one teacher that the student can begin as"
        yield Problem("student", "nothing", allowed)


def _teacher_comes_from(recipe: Recipe, stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    """Yield a problem for a teacher that no stage trains or loads."""
    made = any("teacher" in stage.made() for _, stage in stages)
    if recipe.teachers and not made and not loads_teacher(recipe, stages):
        allowed = "a teacher that a stage makes, or one with a checkpoint"
        fix = "Add a `train_teacher` stage or `checkpoint`; `load` takes it as its source has it."
        yield Problem("teacher", recipe.teachers[0].name or "given", allowed, fix)


def _precisions(stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    """Yield a problem for two half precisions: one Accelerator serves the whole run."""
    found = [
        (number, name, getattr(stage, "precision", ""))
        for number, (name, stage) in enumerate(stages)
    ]
    halves = {precision for _, _, precision in found if precision.endswith("float16")}
    if len(halves) > 1:
        number, name, precision = next(one for one in reversed(found) if one[2] in halves)
        where = f"stages.{number}.{name}.precision"
        yield Problem(where, precision, "the same half precision in all stages that use one")


def _files_last(stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    """Yield problems for training a student after its file was changed, which loses the change."""
    spent = ""
    for number, (name, stage) in enumerate(stages):
        if spent and "float student" in stage.made():
            allowed = f"a stage before `{spent}`, whose file it would not go on from"
            yield Problem(f"stages.{number}.{name}", name, allowed, "Change their order.")
        if "float student" in stage.spent():
            spent = name


def _quantized_once(stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    """Yield problems for quantising twice."""
    places = [number for number, (name, _) in enumerate(stages) if name == "quantize"]
    for number in places[1:]:
        fix = "A model is quantised once: remove one."
        yield Problem(f"stages.{number}.quantize", "a second one", "one quantize stage", fix)


def _budget(recipe: Recipe) -> Iterator[Problem]:
    if recipe.budget.accuracy_drop is not None and not recipe.teachers:
        given, fix = recipe.budget.accuracy_drop, "Give `budget.accuracy` instead."
        yield Problem("budget.accuracy_drop", given, "nothing, without a teacher", fix)
