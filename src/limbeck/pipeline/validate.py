"""Validation of a recipe, with pydantic's errors converted to limbeck's problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from limbeck.core.imports import deferred
from limbeck.errors import REQUIRED, InputError, Problem, RefusedError, did_you_mean, gathering
from limbeck.models.source import Source
from limbeck.models.spec import SOURCES, ModelSpec
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.stage_order import check_stage_order, stage_paths
from limbeck.pipeline.stages import STAGES
from limbeck.tasks import TASKS

MOST = 200
"""Maximum number of pydantic errors converted to problems."""

# Pydantic's location entries for union branches, beside names like `list[str]`.
BRANCHES = {"str", "int", "float", "bool", "one", "several", "constrained-str"}


def of_validation(
    error: ValidationError, model: type[BaseModel], prefix: str = ""
) -> list[Problem]:
    """Convert pydantic's errors to problems; those of a union's branches become one.

    Example:
        >>> from limbeck.data.spec import Columns
        >>> try:
        ...     Columns.model_validate({"lable": "y"})
        ... except ValidationError as error:
        ...     print(*of_validation(error, Columns, "data.columns"))
        data.columns.lable: got 'y'; allowed: one of image, text, label, weight. did you
        mean "label"?
    """
    found: list[Problem] = []
    # The search for the closest allowed word is slow: with thousands of keys, the first must do.
    for details in error.errors(include_url=False)[:MOST]:
        found += _problems(details, model, prefix)
    meant = {_meant(problem) for problem in found}
    return _merged([one for one in found if one.allowed != REQUIRED or one.where not in meant])


def _meant(problem: Problem) -> str:
    """Return the place of the word that a problem suggests first; empty if it suggests none."""
    _, quoted, rest = problem.fix.partition('did you mean "')
    place, _, _ = problem.where.rpartition(".")
    return _joined(place, rest.partition('"')[0]) if quoted else ""


def inside(error: InputError, where: str) -> list[Problem]:
    """Return an error's problems with a path prefix."""
    return [replace(problem, where=_joined(where, problem.where)) for problem in error.problems]


@contextmanager
def located(where: str) -> Iterator[None]:
    """Prefix the paths of the problems raised in the block.

    Example:
        >>> with located("stages.0"):
        ...     raise InputError(Problem("epochs", -1, "above 0"))
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: stages.0.epochs: got -1; allowed: above 0
    """
    try:
        yield
    except InputError as error:
        raise InputError(*inside(error, where)) from error


def of_model(problem: Problem, where: str) -> Problem:
    """Replace `model` by `student` or `teacher` in a problem of a model source.

    Example:
        >>> print(of_model(Problem("model.name", "resnet21", "resnet20"), "student"))
        student.name: got 'resnet21'; allowed: resnet20
    """
    if not problem.where.startswith("model"):
        return problem
    return replace(problem, where=where + problem.where.removeprefix("model"))


@contextmanager
def model_located(where: str) -> Iterator[None]:
    """Replace `model` by a model's path in the problems raised in the block."""
    try:
        yield
    except InputError as error:
        raise InputError(*(of_model(problem, where) for problem in error.problems)) from error


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


def _problems(details: ErrorDetails, model: type[BaseModel], prefix: str) -> list[Problem]:
    cause = details.get("ctx", {}).get("error")
    location, given = details["loc"], details["input"]
    if isinstance(cause, RefusedError):
        parts, _ = _place(model, location)
        # The location of a field's own validator ends with the field.
        own = [part.where.partition(".")[0] for part in cause.problems]
        outer = parts[:-1] if parts and set(own) == {parts[-1]} else parts
        return inside(InputError(*cause.problems), _joined(prefix, *outer))
    if details["type"] == "extra_forbidden":
        # The key is user input and may look like anything, including a union branch.
        parts, owner = _place(model, (*location[:-1], "it"))
        key, names = str(location[-1]), list(owner.model_fields)
        where = _joined(prefix, *parts[:-1], key if key.strip() else repr(key))
        allowed = "one of " + ", ".join(names) if names else "no settings"
        return [Problem(where, given, allowed, did_you_mean(key, names))]
    parts, owner = _place(model, location)
    where = _joined(prefix, *parts) or "recipe"
    if details["type"] == "missing":
        return [Problem.missing(where)]
    if details["type"] == "value_error":
        # A message of the form "got this; allowed: that. The fix".
        head, marked, tail = str(cause).partition("allowed: ")
        return [
            Problem(where, head.removeprefix("got ").rstrip("; ") or given, tail)
            if marked
            else Problem(where, given, str(cause))
        ]
    if details["type"] == "model_type":
        field = owner.model_fields.get(parts[-1]) if parts else None
        kinds = _models(field.annotation) if field else []
        names = list(dict.fromkeys(name for kind in kinds for name in kind.model_fields))
        keys = f" with keys of {', '.join(names)}" if names else ""
        return [Problem(where, given, f"a mapping{keys}")]
    allowed = details["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return [Problem(where, given, allowed or details["msg"])]


def _place(
    model: type[BaseModel], location: tuple[int | str, ...]
) -> tuple[list[str], type[BaseModel]]:
    """Return a location without union branches, and the model that contains its end."""
    parts: list[str] = []
    owner, nested = model, [model]
    for part in location:
        name = str(part)
        if isinstance(part, int):
            parts.append(name)
        elif named := [kind for kind in nested if kind.__name__ == name]:
            nested = named
        elif name not in BRANCHES and "[" not in name:
            # A key after a union's branch belongs to the first model that has it.
            holders = [kind for kind in nested if name in kind.model_fields]
            owner = (holders or nested or [owner])[0]
            nested = _models(owner.model_fields[name].annotation) if holders else []
            parts.append(name)
    return parts, owner


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]


def _merged(problems: list[Problem]) -> list[Problem]:
    """Merge problems of one value that fits no branch of a union.

    Of a mapping that fits one branch but for some keys, only the problems of these keys are kept.
    """
    problems = [
        one
        for one in problems
        if not (
            isinstance(one.given, Mapping)
            and any(other.where.startswith(f"{one.where}.") for other in problems)
        )
    ]
    by_place: dict[tuple[str, int], list[Problem]] = {}
    for problem in problems:
        by_place.setdefault((problem.where, id(problem.given)), []).append(problem)
    return [
        one[0]
        if len(one) == 1
        else Problem(
            one[0].where,
            one[0].given,
            ", or ".join(dict.fromkeys(problem.allowed for problem in one)),
            " ".join(dict.fromkeys(filter(None, (problem.fix for problem in one)))),
        )
        for one in by_place.values()
    ]


LARGEST = 1e19
"""Larger numbers are meaningless for any setting."""

MOST_PROBLEMS = 100
"""Further problems are counted, not listed."""

ONE_STAGE = "one stage with its settings, such as `- train_teacher: {epochs: 20}`"


def validate(content: object) -> Recipe:
    """Convert plain data to a recipe, without importing user code.

    Raises:
        InputError: Every problem of the recipe at once: where, what was given, what is allowed, and
            the fix.

    Example:
        >>> validate({"name": "mine", "stages": [{"distil": {}}]})
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: task: field required
        data: field required
        stages.0: got 'distil'; allowed: ... did you mean "distill"?
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
    problems += check_stage_order(recipe, stages) if not problems else []
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
        found = of_validation(error, Recipe)
        problems += [one for one in found if not one.where.startswith("stages.")]
    stages, of_stages = _check_stages(content.get("stages"))
    task = content.get("task")
    if isinstance(task, str):
        with gathering(problems):
            TASKS.check(task)
    problems += [*of_stages, *_check_models(content)]
    if recipe is not None:
        if len(set(recipe.seeds)) < len(recipe.seeds):
            problems.append(Problem("seeds", recipe.seeds, "seeds that differ from one another"))
        problems += check_stage_order(recipe, stages) if not of_stages else []
    named = {problem.where for problem in problems}
    problems += [one for one in _excessive(content) if one.where not in named]
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


def _excessive(content: object, where: str = "") -> Iterator[Problem]:
    """Yield problems for NaN, infinities and excessive numbers; JSON does not allow the former."""
    if isinstance(content, int | float) and not abs(content) <= LARGEST:
        yield Problem(where, content, f"a finite number, of {LARGEST:g} at most in size")
    parts: Iterator[tuple[object, object]] = iter(())
    if isinstance(content, Mapping):
        parts = iter(content.items())
    elif isinstance(content, list):
        parts = enumerate(content)
    for name, part in parts:
        yield from _excessive(part, f"{where}.{name}" if where else str(name))


def _check_models(content: Mapping[str, object]) -> list[Problem]:
    """Check what can be checked of each model without the data: its name and arguments."""
    problems: list[Problem] = []
    for role in ("teacher", "student"):
        given = content.get(role)
        several = given[:MOST_PROBLEMS] if isinstance(given, list) else [given]
        for number, one in enumerate(several):
            where = f"{role}.{number}" if isinstance(given, list) else role
            try:
                with gathering(problems), model_located(where):
                    spec = ModelSpec.model_validate(one)
                    source: Source = SOURCES.load(spec.source)
                    source.check(spec)
            except ValidationError:  # reported by the recipe's own schema
                continue
    return problems


def _check_stages(stages: object) -> tuple[list[tuple[str, Stage]], list[Problem]]:
    parsed: list[tuple[str, Stage]] = []
    problems: list[Problem] = []
    entries: list[object] = stages[:MOST_PROBLEMS] if isinstance(stages, list) else []
    named = [_name_and_settings(entry) for entry in entries]
    paths = stage_paths([name for name, _ in named])
    for number, (name, settings) in enumerate(named):
        if not name:
            problems.append(Problem(f"stages.{number}", entries[number], ONE_STAGE))
            continue
        with gathering(problems):
            kind: type[Stage] = STAGES.load(name, where=f"stages.{number}")
            parsed.append((name, _stage(kind, settings, paths[number])))
    return parsed, problems


def _name_and_settings(entry: object) -> tuple[str, object]:
    if not isinstance(entry, Mapping) or len(entry) != 1:
        return "", None
    ((name, settings),) = entry.items()
    return str(name), settings


def _stage(kind: type[Stage], settings: object, where: str) -> Stage:
    try:
        with located(where):
            kind = kind.variant(settings)
            return kind.model_validate({} if settings is None else settings)
    except ValidationError as error:
        raise InputError(*of_validation(error, kind, where)) from error
