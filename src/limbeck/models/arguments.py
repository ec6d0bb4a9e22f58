"""A model's arguments, held against what its builder takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from limbeck.errors import InputError, Problem, did_you_mean

# What follows from the data, so that a recipe does not give it: our names and the libraries'.
OURS = {"classes", "channels", "vocab_size", "table_features"}
# Sizes and counts in models stay far below; a slip beyond would exhaust the memory, or never end.
LARGEST = 10_000_000
FITTED = OURS | {"num_classes", "in_chans", "num_labels"}


def check_names(given: Mapping[str, Any], allowed: Collection[str] | None, *, where: str) -> None:
    """Refuse arguments that follow from the data, or that are not in a list.

    Args:
        given: The recipe's arguments.
        allowed: The names that there are; None if any other name will do.
        where: The place in the recipe, for messages.

    Raises:
        InputError: Some are refused; all are named, with the nearest that are allowed.

    Example:
        >>> check_names({"widht": 4}, ["width"], where="student")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: student.widht: got 4; allowed: width. did you mean "width"?
    """
    problems = []
    for name, value in given.items():
        if _is_absurd(value):
            allowed_size = f"numbers of {LARGEST:,} at most in size"
            problems.append(Problem(f"{where}.{name}", value, allowed_size))
        elif name in FITTED:
            fix = "Remove it: it follows from the data."
            problems.append(Problem(f"{where}.{name}", value, "nothing", fix))
        elif allowed is not None and name not in allowed:
            names = sorted(set(allowed) - FITTED)
            takes = ", ".join(names) or "no arguments"
            problems.append(Problem(f"{where}.{name}", value, takes, did_you_mean(name, names)))
    if problems:
        raise InputError(*problems)


def _is_absurd(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_absurd, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_absurd, value))
    return isinstance(value, int | float) and not abs(value) <= LARGEST


def check(builder: Callable[..., Any], given: Mapping[str, Any], *, where: str) -> None:
    """Hold arguments against a builder's signature; `**anything` takes any name.

    Raises:
        InputError: Some are unknown, follow from the data, or are missing; all are named.

    Example:
        >>> def net(classes: int, *, width: int): ...
        >>> check(net, {}, where="student")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: student.width: got 'nothing'; allowed: a value: the model ...
    """
    parameters = inspect.signature(builder).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    check_names(given, None if anything else parameters, where=where)
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}
        and name not in FITTED | set(given)
    ]
    if missing:
        allowed = "a value: the model needs one"
        raise InputError(*(Problem(f"{where}.{name}", "nothing", allowed) for name in missing))


def call(builder: Callable[..., Any], arguments: Mapping[str, Any], *, where: str) -> Any:
    """Call a builder; what it raises becomes a message about the model.

    Raises:
        InputError: The builder raises anything.

    Example:
        >>> call(int, {"x": 1}, where="student")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: student: got {'x': 1}; allowed: arguments ... TypeError: ...
    """
    try:
        return builder(**arguments)
    # Builders are other people's code: each refuses its arguments by an error of its own.
    except Exception as error:
        fix = f"{type(error).__name__}: {error}"
        problem = Problem(where, dict(arguments), "arguments that the model takes", fix)
        raise InputError(problem) from error
