"""Conversion of pydantic errors to limbeck's problems."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from limbeck.errors import InputError, Problem, did_you_mean

MOST = 200
"""Maximum number of pydantic errors converted to problems."""

# Pydantic's location entries for union branches, beside names like `list[str]`.
BRANCHES = {"str", "int", "float", "bool", "one", "several", "constrained-str"}


class RefusedError(ValueError):
    """Problems found by a custom validator, each with its path.

    Pydantic collects a `ValueError` with its own errors; an `InputError` would end the validation.
    """

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))


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
        data.columns.lable: got 'y'; allowed: one of image, text, label. did you mean "label"?
    """
    found: list[Problem] = []
    # The search for the closest allowed word is slow: with thousands of keys, the first must do.
    for details in error.errors(include_url=False)[:MOST]:
        found += _problems(details, model, prefix)
    return _merged(found)


def inside(error: InputError, where: str) -> list[Problem]:
    """Return an error's problems with a path prefix."""
    return [_placed(problem, where) for problem in error.problems]


def of_model(problem: Problem, where: str) -> Problem:
    """Replace `model` by `student` or `teacher` in a problem of a model source.

    Example:
        >>> print(of_model(Problem("model.name", "resnet21", "resnet20"), "student"))
        student.name: got 'resnet21'; allowed: resnet20
    """
    said = problem.where.removeprefix("model")
    place = where + said if problem.where.startswith("model") else problem.where
    return Problem(place, problem.given, problem.allowed, problem.fix)


def _placed(problem: Problem, prefix: str) -> Problem:
    where = _joined(prefix, problem.where)
    return Problem(where, problem.given, problem.allowed, problem.fix)


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


def _problems(details: ErrorDetails, model: type[BaseModel], prefix: str) -> list[Problem]:
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, RefusedError):
        return [_placed(problem, prefix) for problem in cause.problems]
    location = details["loc"]
    if details["type"] == "extra_forbidden":
        # The key is user input and may look like anything, including a union branch.
        parts, around = _place(model, (*location[:-1], "it"))
        return [_unknown(_joined(prefix, *parts[:-1]), str(location[-1]), details["input"], around)]
    parts, _ = _place(model, location)
    where, given = _joined(prefix, *parts) or "recipe", details["input"]
    if details["type"] == "missing":
        return [Problem(where, "nothing", "a value; field required")]
    if details["type"] == "value_error":
        return [_of_message(where, given, str(cause))]
    return [Problem(where, given, _allowed(details["msg"]))]


def _unknown(where: str, key: str, given: object, around: type[BaseModel]) -> Problem:
    names = list(around.model_fields)
    allowed = "one of " + ", ".join(names) if names else "no settings"
    shown = key if key.strip() else repr(key)
    return Problem(_joined(where, shown), given, allowed, did_you_mean(key, names))


def _of_message(where: str, given: object, text: str) -> Problem:
    """Parse a message of the form "what is wrong; allowed: what is. The fix"."""
    head, marked, tail = text.partition("allowed: ")
    if not marked:
        return Problem(where, given, text)
    wrong = head.rstrip("; ")
    return Problem(where, wrong or given, tail)


def _allowed(message: str) -> str:
    shorter = message.removeprefix("Input should be ").removeprefix("a valid ")
    return shorter or message


def _place(
    model: type[BaseModel], location: tuple[int | str, ...]
) -> tuple[list[str], type[BaseModel]]:
    """Return a location without union branches, and the model that contains its end."""
    parts: list[str] = []
    around, nested = model, [model]
    for part in location:
        name = str(part)
        if isinstance(part, int):
            parts.append(name)
        elif (named := [kind for kind in nested if kind.__name__ == name]) or _is_branch(name):
            nested = named or nested
        else:
            # A key after a union's branch belongs to the first model that has it.
            holders = [kind for kind in nested if name in kind.model_fields]
            around = (holders or nested or [around])[0]
            nested = _models(around.model_fields[name].annotation) if holders else []
            parts.append(name)
    return parts, around


def _is_branch(name: str) -> bool:
    return name in BRANCHES or "[" in name


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models of an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]


def _merged(problems: list[Problem]) -> list[Problem]:
    """Merge problems of one value that fits no branch of a union."""
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
