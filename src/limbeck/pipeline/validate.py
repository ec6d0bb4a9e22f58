"""Recipe validation: all problems at once, before anything is read or computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from limbeck.callables import deferred
from limbeck.errors import InputError, Problem, did_you_mean, gathering
from limbeck.models.source import Source
from limbeck.models.spec import SOURCES, ModelSpec
from limbeck.pipeline.chain import check_chain
from limbeck.pipeline.problems import inside, of_model, of_validation
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.stages import STAGES
from limbeck.tasks import TASKS

LARGEST = 1e19
"""Larger numbers are meaningless for any setting."""

MOST_PROBLEMS = 100
"""Further problems are counted, not listed."""

ONE_STAGE = "one stage with its settings, such as `- teach: {epochs: 20}`"


def validate(content: object) -> Recipe:
    """Convert plain data to a recipe, without importing user code.

    Raises:
        InputError: Every problem of the recipe at once: where, what was given, what is allowed, and
            the fix.

    Example:
        >>> validate({"name": "mine", "stages": [{"teech": {}}]})
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: task: got 'nothing'; allowed: a value; field required
        data: got 'nothing'; allowed: a value; field required
        stages.0: got 'teech'; allowed: ... did you mean "teach"?
    """
    if not isinstance(content, Mapping):
        raise InputError(Problem("recipe", content, "a mapping, such as `name: digits`"))
    with deferred():
        return _validated(content)


def check_code(recipe: Recipe) -> list[tuple[str, Stage]]:
    """Import the user code of the stages, and check the recipe against it.

    Returns:
        The stages by name, with their settings typed.

    Raises:
        InputError: A name cannot be imported, or does not accept its settings; all problems at
            once.
    """
    stages, problems = _check_stages(recipe.stages)
    problems += check_chain(recipe, stages) if not problems else []
    if problems:
        raise InputError(*_listed(problems))
    return stages


def _validated(content: Mapping[str, object]) -> Recipe:
    problems: list[Problem] = []
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        # Stages that are not mappings are reported below, with a better message.
        problems += [one for one in of_validation(error, Recipe) if not _is_stage(one.where)]
    stages, of_stages = _check_stages(content.get("stages"))
    problems += [*_check_task(content.get("task")), *of_stages, *_check_models(content)]
    if recipe is not None:
        problems += _check_seeds(recipe)
        problems += check_chain(recipe, stages) if not of_stages else []
    named = {problem.where for problem in problems}
    problems += [one for one in _absurd(content) if one.where not in named]
    if problems or recipe is None:
        raise InputError(*_listed(problems))
    return recipe


def _listed(problems: list[Problem]) -> list[Problem]:
    """Return the first problems, and a count of the others."""
    more = len(problems) - MOST_PROBLEMS
    if more <= 0:
        return problems
    rest = Problem("recipe", f"{more} more problems", "none", "Mend these first.")
    return [*problems[:MOST_PROBLEMS], rest]


def _absurd(content: object, where: str = "") -> Iterator[Problem]:
    """Yield problems for NaN, infinities and excessive numbers; JSON does not allow the former."""
    if isinstance(content, int | float) and not abs(content) <= LARGEST:
        yield Problem(where, content, f"a finite number, of {LARGEST:g} at most in size")
    parts: Iterator[tuple[object, object]] = iter(())
    if isinstance(content, Mapping):
        parts = iter(content.items())
    elif isinstance(content, list):
        parts = enumerate(content)
    for name, part in parts:
        yield from _absurd(part, f"{where}.{name}" if where else str(name))


def _is_stage(where: str) -> bool:
    return where.startswith("stages.")


def _check_task(task: object) -> Iterator[Problem]:
    allowed = TASKS.names()
    if isinstance(task, str) and task not in allowed:
        yield Problem("task", task, ", ".join(allowed), did_you_mean(task, allowed))


def _check_models(content: Mapping[str, object]) -> list[Problem]:
    """Check what can be checked of each model without the data: its name and arguments."""
    problems: list[Problem] = []
    for role in ("teacher", "student"):
        given = content.get(role)
        several = given[:MOST_PROBLEMS] if isinstance(given, list) else [given]
        for number, one in enumerate(several):
            where = f"{role}.{number}" if isinstance(given, list) else role
            try:
                spec = ModelSpec.model_validate(one)
                source: Source = SOURCES.load(spec.source)
                source.check(spec)
            except ValidationError:  # reported by the recipe's own schema
                continue
            except InputError as error:
                problems += [of_model(problem, where) for problem in error.problems]
    return problems


def _check_seeds(recipe: Recipe) -> Iterator[Problem]:
    if len(set(recipe.seeds)) < len(recipe.seeds):
        yield Problem("seeds", recipe.seeds, "seeds that differ from one another")


def _check_stages(stages: object) -> tuple[list[tuple[str, Stage]], list[Problem]]:
    """Parse every stage's settings, and return the problems."""
    parsed: list[tuple[str, Stage]] = []
    problems: list[Problem] = []
    for number, entry in enumerate(stages[:MOST_PROBLEMS] if isinstance(stages, list) else []):
        where = f"stages.{number}"
        if not isinstance(entry, Mapping) or len(entry) != 1:
            problems.append(Problem(where, entry, ONE_STAGE))
            continue
        ((name, settings),) = entry.items()
        with gathering(problems):
            parsed.append((str(name), _stage(str(name), settings, where)))
    return parsed, problems


def _stage(name: str, settings: object, where: str) -> Stage:
    kind: type[Stage] = STAGES.load(name, where=where)
    try:
        return kind.model_validate({} if settings is None else settings)
    except ValidationError as error:
        raise InputError(*of_validation(error, kind, f"{where}.{name}")) from error
    except InputError as error:
        raise InputError(*inside(error, f"{where}.{name}")) from error
