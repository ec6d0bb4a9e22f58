"""Errors with the given value, the allowed values, and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
LONGEST = 300
"""The most characters of a given value that a message shows."""

REQUIRED = "field required"
"""What a problem of a missing value allows."""


@dataclass(frozen=True)
class Problem:
    """One problem: where, what was given, what is allowed, and the fix.

    Example:
        >>> print(Problem("stages.distill.epochs", given=-1, allowed="a whole number above 0"))
        stages.distill.epochs: got -1; allowed: a whole number above 0
    """

    where: str
    given: object
    allowed: str
    fix: str = ""

    @classmethod
    def missing(cls, where: str, fix: str = "") -> Problem:
        """Return the problem of a value that is required and not given.

        Example:
            >>> print(Problem.missing("student", "`distill` trains one."))
            student: field required. `distill` trains one.
        """
        return cls(where, None, REQUIRED, fix)

    @property
    def shown(self) -> str:
        """Return the given value as text, shortened."""
        return "nothing" if self.allowed == REQUIRED else _shown(self.given)

    def __str__(self) -> str:
        text = f"{self.where}: {REQUIRED}"
        if self.allowed != REQUIRED:
            text = f"{self.where}: got {self.shown}; allowed: {self.allowed}"
        return f"{text}. {self.fix}" if self.fix else text


def _shown(given: object) -> str:
    try:
        text = repr(given)
    # An integer of many thousand digits cannot be converted to text.
    except (ValueError, RecursionError):
        return f"a {type(given).__name__} too large to show"
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


class LimbeckError(Exception):
    """An explained error: shown without a traceback, exit code 1."""

    exit_code = 1


class InputError(LimbeckError):
    """Invalid input of the user: every problem at once, exit code 2.

    Example:
        >>> raise InputError(Problem("data.source", "sql", "csv or parquet", 'did you mean "csv"?'))
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: data.source: got 'sql'; ... did you mean "csv"?
    """

    exit_code = 2

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))

    def __reduce__(self) -> tuple[type[InputError], tuple[Problem, ...]]:
        """Return how to build the error from a pickle: a worker process may raise it."""
        return type(self), self.problems


class RefusedError(ValueError):
    """Problems found by a custom validator, each with its path in the validated model.

    Pydantic collects a `ValueError` with its own errors; an `InputError` would end the validation.
    """

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))


@contextmanager
def gathering(problems: list[Problem]) -> Iterator[None]:
    """Catch an `InputError` of the block, and collect its problems to report them all together.

    Example:
        >>> problems: list[Problem] = []
        >>> with gathering(problems):
        ...     raise InputError(Problem("width", -1, "above 0"))
        >>> print(*problems)
        width: got -1; allowed: above 0
    """
    try:
        yield
    except InputError as error:
        problems += error.problems


def gathered(works: Sequence[Callable[[], T]]) -> list[T]:
    """Call several functions, and raise the problems of all of them together.

    Example:
        >>> gathered([lambda: 1, lambda: 2])
        [1, 2]
    """
    results: list[T] = []
    problems: list[Problem] = []
    for work in works:
        with gathering(problems):
            results.append(work())
    if problems:
        raise InputError(*problems)
    return results


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """Return a suggestion of the nearest allowed words; empty if none is similar.

    Example:
        >>> did_you_mean("hinton", ["hinton_kd", "fitnets"])
        'did you mean "hinton_kd"?'
        >>> did_you_mean("xyz", ["hinton_kd"])
        ''
    """
    near = _nearest(given, allowed)
    return "did you mean " + " or ".join(f'"{word}"' for word in near) + "?" if near else ""


def _nearest(given: object, allowed: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(str(given), list(allowed), n=3, cutoff=0.5)


def key_problems(
    given: Mapping[str, object], known: Collection[str], required: Iterable[str], *, where: str
) -> list[Problem]:
    """Return the problems of keys that are unknown, or required and missing.

    A misspelt key that is nearest to a missing one is one problem, not two.

    Example:
        >>> print(*key_problems({"lwo": 0}, ["low", "high"], ["low", "high"], where="range"))
        range.lwo: got 0; allowed: low, high. did you mean "low"? range.high: field required
    """
    unknown = [key for key in given if key not in known]
    meant = {near for key in unknown for near in _nearest(key, known)[:1]}
    allowed = ", ".join(known) or "no settings"
    return [
        *(
            Problem(f"{where}.{key}", given[key], allowed, did_you_mean(key, known))
            for key in unknown
        ),
        *(Problem.missing(f"{where}.{key}") for key in required if key not in {*given, *meant}),
    ]


def check_choice(given: object, allowed: Sequence[str], *, where: str) -> None:
    """Raise an error unless a word is one of those allowed.

    Raises:
        InputError: The word is not allowed; the message lists the nearest ones.

    Example:
        >>> check_choice("kll", ["kl", "huber"], where="rkd_angle.similarity")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: rkd_angle.similarity: got 'kll'; allowed: kl, huber. ...
    """
    if given not in allowed:
        raise InputError(Problem(where, given, ", ".join(allowed), did_you_mean(given, allowed)))
