"""Stage order checks, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from limbeck.core.imports import are_deferred
from limbeck.core.registry import is_own
from limbeck.errors import Problem, did_you_mean
from limbeck.tasks import TASKS

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


def stage_paths(names: Sequence[str]) -> list[str]:
    """Return the path of each stage in the recipe, as `--set` accepts it.

    Example:
        >>> stage_paths(["train_teacher", "distill", "prune", "distill"])
        ['stages.train_teacher', 'stages.1.distill', 'stages.prune', 'stages.3.distill']
    """
    return [
        f"stages.{name}" if names.count(name) == 1 else f"stages.{number}.{name}"
        for number, name in enumerate(names)
    ]


def check_stage_order(recipe: Recipe, stages: list[tuple[str, Stage]]) -> list[Problem]:
    """Return the problems of stages whose requirements are not produced by earlier stages."""
    return [
        *_requirements(recipe, stages),
        *_models_given(recipe, stages),
        *_teacher_source(recipe, stages),
        *_shared_first(stages),
        *_precisions(stages),
        *_files_last(stages),
        *_thresholds_last(stages),
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


def _paths(stages: list[tuple[str, Stage]]) -> list[str]:
    return stage_paths([name for name, _ in stages])


def _requirements(recipe: Recipe, stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    made = {"teacher"} if loads_teacher(recipe, stages) else set[str]()
    for where, (_, stage) in zip(_paths(stages), stages, strict=True):
        for need in stage.needed(recipe):
            if need not in made:
                allowed = f"a stage before it that makes a {need}"
                yield Problem(where, f"no {need}", allowed, FIXES.get(need, ""))
        for problem in stage.validate_in(recipe):
            yield replace(problem, where=f"{where}.{problem.where}")
        made = (made - set(stage.spent())) | set(stage.made())


def _models_given(recipe: Recipe, stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    makers = {model: (name, stage) for name, stage in reversed(stages) for model in stage.made()}
    if "teacher" in makers and not recipe.teachers:
        yield Problem.missing("teacher", f"`{makers['teacher'][0]}` trains it.")
    if "student" not in makers or recipe.student is not None:
        return
    name, stage = makers["student"]
    if not stage.starts_from_teacher:
        yield Problem.missing("student", f"`{name}` trains it.")
    elif recipe.student_spec is None:
        yield Problem.missing("student", "Or give one teacher, from which the student starts.")


def _teacher_source(recipe: Recipe, stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    """Yield a problem for a teacher that no stage trains or loads."""
    made = any("teacher" in stage.made() for _, stage in stages)
    if recipe.teachers and not made and not loads_teacher(recipe, stages):
        allowed = "a teacher that a stage makes, or one with a checkpoint"
        fix = "Add a `train_teacher` stage or `checkpoint`; `load` takes it as its source has it."
        yield Problem("teacher", recipe.teachers[0].name or "given", allowed, fix)


def _shared_first(stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    """Yield a problem for a teacher of one seed that starts from what each seed has trained."""
    own = ""
    for where, (name, stage) in zip(_paths(stages), stages, strict=True):
        if stage.shared_seed() is None:
            own = own or name
        elif own:
            allowed = f"none after `{own}`, which each seed of the run has its own result of"
            fix = "Put `train_teacher` first, or leave out `seed`."
            yield Problem(f"{where}.seed", stage.shared_seed(), allowed, fix)


def _precisions(stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    """Yield a problem for two half precisions: one Accelerator serves the whole run."""
    halves = [
        (f"{where}.precision", precision)
        for where, (_, stage) in zip(_paths(stages), stages, strict=True)
        if (precision := getattr(stage, "precision", "")).endswith("float16")
    ]
    if len({precision for _, precision in halves}) > 1:
        allowed = "the same half precision in all stages that use one"
        yield Problem(*halves[-1], allowed)


def _files_last(stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    """Yield problems for training a student after its file was changed, which loses the change."""
    spent = ""
    for where, (name, stage) in zip(_paths(stages), stages, strict=True):
        if spent and "float student" in stage.made():
            allowed = f"a stage before `{spent}`, whose file it would not continue from"
            yield Problem(where, name, allowed, "Change their order.")
        if "float student" in stage.spent():
            spent = name


def _thresholds_last(stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    """Yield problems for changing a model after its exits' thresholds, which would not fit it."""
    last = max((at for at, (name, _) in enumerate(stages) if name == "early_exit"), default=None)
    if last is None:
        return
    for where, (name, stage) in list(zip(_paths(stages), stages, strict=True))[last + 1 :]:
        if "float student" in stage.made():
            allowed = "a stage before `early_exit`, whose thresholds and shares are of one model"
            yield Problem(
                where, name, allowed, "Change their order, or choose them again after it."
            )


def _quantized_once(stages: list[tuple[str, Stage]]) -> Iterator[Problem]:
    quantized = [path for path in _paths(stages) if path.endswith("quantize")]
    for path in quantized[1:]:
        fix = "A model is quantised once: remove one."
        yield Problem(path, "a second one", "one quantize stage", fix)


UPPER_BOUNDS = {"r2": 1.0}
"""The largest value of scores that are no shares: a limit above it is never met."""


def _budget(recipe: Recipe) -> Iterator[Problem]:
    budget = recipe.budget
    if budget.drop and not recipe.teachers:
        fix = "Give `budget.score` instead."
        yield Problem("budget.drop", budget.drop, "nothing, without a teacher", fix)
    known = recipe.task in TASKS.names() or (is_own(recipe.task) and not are_deferred())
    if not known:  # reported elsewhere, or not imported yet
        return
    metrics = {one.metric.name: one.metric for one in TASKS.load(recipe.task).scores}
    for key, limits in (("score", budget.score), ("drop", budget.drop)):
        for name, value in limits.items():
            if name not in metrics:
                fix = did_you_mean(name, list(metrics))
                yield Problem(f"budget.{key}", name, ", ".join(metrics), fix)
            elif metrics[name].unit == "share" and not 0 <= value <= 1:
                yield Problem(f"budget.{key}.{name}", value, "a share from 0 to 1")
            elif key == "score" and value > UPPER_BOUNDS.get(name, value):
                allowed = f"at most {UPPER_BOUNDS[name]:g}, the largest value of the score"
                yield Problem(f"budget.{key}.{name}", value, allowed)
