"""Values checked against type annotations, by pydantic."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, get_origin, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from limbeck.errors import InputError, Problem, did_you_mean, gathering, key_problems

# Without strict, "4" and true would be numbers.
_CONFIG = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
_KINDS = {
    "array": "a list",
    "boolean": "true, false",
    "integer": "a whole number",
    "number": "a finite number",
    "object": "a mapping",
    "string": "a word",
}
_LIMITS = {
    "exclusiveMinimum": "above",
    "minimum": "at least",
    "exclusiveMaximum": "below",
    "maximum": "at most",
}


@dataclass(frozen=True)
class OnlyWith:
    """A constraint in an annotation: a value is allowed only with this choice of a parameter.

    Example:
        >>> print(OnlyWith("kind", "jsd"))
        only with kind="jsd"
    """

    parameter: str
    choice: str

    def __str__(self) -> str:
        return f'only with {self.parameter}="{self.choice}"'


def validate(annotation: Any, value: Any, *, where: str) -> Any:
    """Check a value against an annotation, and return it in that type.

    An annotation that pydantic does not support accepts any value.

    Raises:
        InputError: The value is of another type, or out of range.

    Example:
        >>> from pydantic import PositiveFloat
        >>> validate(PositiveFloat, 4, where="temperature")
        4.0
        >>> validate(PositiveFloat, 0, where="temperature")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: temperature: got 0; allowed: a finite number above 0
    """
    if isinstance(value, list) and get_origin(annotation) is tuple:
        value = tuple(value)  # YAML has no tuples
    try:
        return TypeAdapter(annotation, config=_CONFIG).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Input should be ")
        allowed = describe(json_schema(annotation)) or message
        fix = did_you_mean(value, allowed.split(", "))
        raise InputError(Problem(where, value, allowed, fix)) from None
    except PydanticUserError:
        return value


def validate_arguments(
    function: Callable[..., Any], given: Any, *, where: str, without: Collection[str] = ()
) -> dict[str, Any]:
    """Check a mapping of keyword arguments against a function's signature, and return it.

    Args:
        function: The function, or the class.
        given: The mapping; None is an empty one.
        where: The place of the mapping, for messages.
        without: The names of parameters that are no settings.

    Raises:
        InputError: A key is missing or unknown, or a value is invalid; the message lists all.

    Example:
        >>> def area(width: float, height: float = 1.0) -> float: ...
        >>> validate_arguments(area, {"width": 2, "heihgt": 3}, where="area")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: area.heihgt: got 3; ... did you mean "height"?
    """
    parameters = inspect.signature(function).parameters
    known = {key: one for key, one in parameters.items() if key not in without}
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise InputError(Problem(where, given, f"a mapping with {', '.join(known)}"))
    required = [key for key, one in known.items() if one.default is one.empty]
    problems = key_problems(given, known, required, where=where)
    hints = get_type_hints(function, include_extras=True)
    valid = {}
    for key in filter(known.__contains__, given):
        with gathering(problems):
            valid[key] = validate(hints[key], given[key], where=f"{where}.{key}")
    if problems:
        raise InputError(*problems)
    return valid


def json_schema(annotation: Any) -> dict[str, Any]:
    """Return the JSON schema of an annotation; an empty one if JSON has no such values.

    Example:
        >>> from pydantic import PositiveFloat
        >>> json_schema(PositiveFloat)
        {'exclusiveMinimum': 0, 'type': 'number'}
    """
    try:
        return TypeAdapter(annotation, config=_CONFIG).json_schema()
    except PydanticUserError:
        return {}


def describe(schema: Mapping[str, Any]) -> str:
    """Describe the values that a JSON schema allows, without null.

    Example:
        >>> describe({"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}})
        'a list of finite numbers above 0'
        >>> describe({"enum": ["mean", "sum"]})
        'mean, sum'
    """
    if "description" in schema:
        return str(schema["description"])
    if "anyOf" in schema:
        return " or ".join(filter(None, map(describe, schema["anyOf"])))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    text = _KINDS.get(schema.get("type", ""), "")
    if "items" in schema:
        items = describe(schema["items"])
        return f"{text} of " + re.sub(r"^a (finite number|whole number|word|list)", r"\1s", items)
    limits = [f"{word} {schema[key]:g}" for key, word in _LIMITS.items() if key in schema]
    return " ".join(filter(None, [text, " and ".join(limits)]))
