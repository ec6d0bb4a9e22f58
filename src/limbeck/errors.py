"""Errors with the given value, the allowed values, and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

LONGEST = 300
"""The most characters of a given value that a message shows."""


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

    def __str__(self) -> str:
        text = f"{self.where}: got {_shown(self.given)}; allowed: {self.allowed}"
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


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """Return a suggestion of the nearest allowed words; empty if none is similar.

    Example:
        >>> did_you_mean("hinton", ["hinton_kd", "fitnets"])
        'did you mean "hinton_kd"?'
        >>> did_you_mean("xyz", ["hinton_kd"])
        ''
    """
    near = difflib.get_close_matches(str(given), list(allowed), n=3, cutoff=0.5)
    return "did you mean " + " or ".join(f'"{word}"' for word in near) + "?" if near else ""


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
