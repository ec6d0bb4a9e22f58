"""A model's arguments, held against what its builder takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from limbeck.errors import InputError, Problem, did_you_mean

FITTED = {"classes", "channels", "vocab_size"}


def check(builder: Callable[..., Any], arguments: Mapping[str, Any], *, where: str) -> None:
    """Refuse arguments that a builder does not take, and name those that it needs.

    A builder that takes `**anything` is not held to a list.

    Raises:
        InputError: Some are unknown or missing; all are named.

    Example:
        >>> def net(classes: int, *, width: int = 8): ...
        >>> check(net, {"widht": 4}, where="student")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: student.widht: got 4; allowed: width. did you mean "width"?
    """
    parameters = inspect.signature(builder).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    allowed = [name for name in parameters if name not in FITTED]
    unknown = [name for name in arguments if name not in allowed]
    if inspect.Parameter.VAR_KEYWORD in kinds:
        unknown = [name for name in unknown if name in FITTED]
    problems = [_unknown(where, name, arguments[name], allowed) for name in unknown]
    problems += [
        Problem(f"{where}.{name}", "nothing", "a value: the model needs one")
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}
        and name not in {*FITTED, *arguments}
    ]
    if problems:
        raise InputError(*problems)


def _unknown(where: str, name: str, value: object, allowed: list[str]) -> Problem:
    if name in FITTED:
        return Problem(f"{where}.{name}", value, "nothing: it follows from the data", "Remove it.")
    takes = ", ".join(allowed) or "no arguments"
    return Problem(f"{where}.{name}", value, takes, did_you_mean(name, allowed))


def call(builder: Callable[..., Any], arguments: Mapping[str, Any], *, where: str) -> Any:
    """Call a builder; what it refuses becomes a message about the model.

    Raises:
        InputError: The builder raises one of the errors by which a callable refuses arguments.

    Example:
        >>> call(int, {"x": 1}, where="student")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: student: got {'x': 1}; allowed: arguments ... TypeError: ...
    """
    try:
        return builder(**arguments)
    # AssertionError too: timm and torchvision check their arguments so.
    except (TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        fix = f"{type(error).__name__}: {error}"
        problem = Problem(where, dict(arguments), "arguments that the model takes", fix)
        raise InputError(problem) from error
