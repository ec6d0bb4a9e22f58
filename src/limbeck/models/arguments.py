"""Arguments of a model's builder: checked against its signature, and written as source text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from limbeck.errors import InputError, Problem, key_problems

# Arguments that follow from the data and are not set in a recipe: limbeck's names and the
# libraries'.
DATA_ARGUMENTS = {"classes", "channels", "vocab_size", "table_features"}
FITTED = DATA_ARGUMENTS | {"num_classes", "in_chans", "num_labels"}
# Model sizes are far below; a larger value is a slip that would exhaust the memory, or never end.
LARGEST = 10_000_000


def with_build(text: str, callee: str, arguments: Mapping[str, object], *positional: object) -> str:
    """Add `build()`, which calls a function that the text defines or imports.

    The callee is aliased first, so that it may itself be named `build`.

    Example:
        >>> print(with_build("from torch import nn", "nn.Linear", {"bias": False}, 2, 1))
        from torch import nn
        <BLANKLINE>
        <BLANKLINE>
        _builder = nn.Linear
        <BLANKLINE>
        <BLANKLINE>
        def build():
            "Make the module as it was trained; its weights are in model.safetensors."
            return _builder(2, 1, bias=False)
        <BLANKLINE>
    """
    parts = [repr(value) for value in positional]
    parts += [f"{name}={value!r}" for name, value in arguments.items()]
    return f"""{text.rstrip()}


_builder = {callee}


def build():
    "Make the module as it was trained; its weights are in model.safetensors."
    return _builder({", ".join(parts)})
"""


def check_names(
    given: Mapping[str, object],
    allowed: Collection[str] | None,
    required: Iterable[str] = (),
    *,
    where: str,
    fitted: Collection[str] = FITTED,
) -> None:
    """Check for arguments that follow from the data, are not in a list, or are missing.

    Args:
        given: The arguments by name.
        allowed: The names allowed; None allows any.
        required: The names that must be given.
        where: The model in the recipe, for messages.
        fitted: The names that follow from the data.

    Raises:
        InputError: Arguments are invalid; the message lists all, with the nearest allowed names.

    Example:
        >>> check_names({"widht": 4}, ["width"], where="student")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: student.widht: got 4; allowed: width. did you mean "width"?
    """
    known = sorted({*given, *required} if allowed is None else {*allowed} - {*fitted})
    free = {name: value for name, value in given.items() if name not in fitted}
    problems = key_problems(free, known, required, where=where)
    for name, value in given.items():
        place = f"{where}.{name}"
        if _is_absurd(value):
            problems.append(Problem(place, value, f"numbers of {LARGEST:,} at most in size"))
        elif name in fitted:
            problems.append(
                Problem(place, value, "nothing", "Remove it: it follows from the data.")
            )
    if problems:
        raise InputError(*problems)


def _is_absurd(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_absurd, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_absurd, value))
    return isinstance(value, int | float) and not abs(value) <= LARGEST


def has_var_keyword(builder: Callable[..., Any]) -> bool:
    """Return whether a builder accepts any keyword argument, by `**kwargs`."""
    parameters = inspect.signature(builder).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def check(
    builder: Callable[..., Any],
    given: Mapping[str, object],
    *,
    where: str,
    fitted: Iterable[str] = (),
) -> None:
    """Check arguments against a builder's signature; `**kwargs` accepts any name.

    Args:
        builder: The function or class that builds the model.
        given: The arguments of the recipe.
        where: The model in the recipe, for messages.
        fitted: More names that follow from the data, such as the `window` of a series.

    Raises:
        InputError: Arguments are unknown, missing, or follow from the data: the message lists all.

    Example:
        >>> def net(classes: int, *, width: int): ...
        >>> check(net, {}, where="student")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: student.width: field required
    """
    parameters, known = inspect.signature(builder).parameters, FITTED.union(fitted)
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}
        and name not in known
    ]
    allowed = None if has_var_keyword(builder) else parameters
    check_names(given, allowed, required, where=where, fitted=known)


def call(builder: Callable[..., Any], arguments: Mapping[str, object], *, where: str) -> Any:
    """Call a builder; convert its exceptions to a message about the model.

    Raises:
        InputError: The builder raises an exception.

    Example:
        >>> call(int, {"x": 1}, where="student")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: student: got {'x': 1}; allowed: arguments ... TypeError: ...
    """
    try:
        return builder(**arguments)
    # Builders are external code and raise their own exception types.
    except Exception as error:
        fix = f"{type(error).__name__}: {error}"
        problem = Problem(where, dict(arguments), "arguments that the model takes", fix)
        raise InputError(problem) from error
