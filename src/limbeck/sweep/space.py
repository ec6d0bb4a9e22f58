"""The search space of a sweep: at each path of the recipe a list of choices, or a range."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from limbeck.errors import InputError, Problem, RefusedError, gathering
from limbeck.pipeline.load_recipe import parse, read
from limbeck.pipeline.validate import of_validation

if TYPE_CHECKING:
    from optuna.trial import Trial

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})(?::(log|{NUMBER}))?")
FORM = "a,b,c or low..high or low..high:step or low..high:log"
DIGITS = 12
"""Significant digits of a range's numbers: 0.3 rather than 0.30000000000000004."""

Number = (
    Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True, allow_inf_nan=False)]
)


@dataclass(frozen=True)
class Choices:
    """A categorical list of values."""

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """Return all values; each is validated."""
        return self.values

    def listed(self) -> Sequence[Any]:
        """Return every value."""
        return self.values

    def suggest(self, trial: Trial, path: str) -> Any:
        """Return a value suggested by the sampler."""
        return json.loads(trial.suggest_categorical(path, [encode(self, v) for v in self.values]))

    def __str__(self) -> str:
        return ", ".join(_written(value) for value in self.values)


class Range(BaseModel):
    """Numbers from `low` to `high`; integers if both ends (and the step) are integers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: Number
    high: Number
    step: Number | None = None
    log: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems = []
        if not self.low < self.high:
            problems.append(Problem("low", self.low, f"a number below {self.high}"))
        width = self.high - self.low
        if self.step is not None and not 0 < self.step <= width * (1 + 1e-9):
            allowed = f"a number above 0 and at most {width:g}"
            problems.append(Problem("step", self.step, allowed))
        if self.log and self.low <= 0:
            problems.append(Problem("low", self.low, "a number above 0, on a logarithmic scale"))
        if self.log and self.step is not None:
            problems.append(Problem("step", self.step, "nothing, on a logarithmic scale"))
        if problems:
            raise RefusedError(*problems)
        return self

    @property
    def whole(self) -> bool:
        """Return whether the numbers are integers."""
        return all(isinstance(n, int) for n in (self.low, self.high, self.step or 1))

    def ends(self) -> tuple[Any, ...]:
        """Return the ends, which are validated in place of all values."""
        return self.low, self.high

    def listed(self) -> Sequence[Any] | None:
        """Return every value; `None` if there are infinitely many."""
        if self.whole:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        if self.step is None:
            return None
        count = math.floor((self.high - self.low) / self.step + 1e-9)
        return [_rounded(self.low + index * self.step) for index in range(count + 1)]

    def suggest(self, trial: Trial, path: str) -> Any:
        """Return a value suggested by the sampler."""
        listed = self.listed()
        # The last step within the range: samplers require a range that the steps fill.
        high = self.high if listed is None else listed[-1]
        if self.whole:
            return trial.suggest_int(path, self.low, high, step=self.step or 1, log=self.log)
        return _rounded(trial.suggest_float(path, self.low, high, step=self.step, log=self.log))

    def __str__(self) -> str:
        scale = ", logarithmic" if self.log else f" by {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{scale}"


Domain: TypeAlias = Choices | Range
Space: TypeAlias = dict[str, Domain]


def encode(domain: Domain, value: Any) -> Any:
    """Encode a value for the sampler, which accepts no list as a choice."""
    return json.dumps(value, sort_keys=True) if isinstance(domain, Choices) else value


def key(settings: Mapping[str, Any]) -> str:
    """Compute a key of settings; equal settings have equal keys.

    Example:
        >>> key({"b": 1, "a": [2]}) == key({"a": [2], "b": 1})
        True
    """
    return json.dumps(settings, sort_keys=True)


def size(space: Space) -> int | None:
    """Return the number of settings; `None` if there are infinitely many.

    Example:
        >>> size({"student.width": Range(low=4, high=8), "student.depth": Choices((1, 2))})
        10
    """
    lists = [domain.listed() for domain in space.values()]
    return None if None in lists else math.prod(len(one) for one in lists if one is not None)


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Iterate over all settings of a finite space."""
    lists = (domain.listed() or () for domain in space.values())
    for values in itertools.product(*lists):
        yield dict(zip(space, values, strict=True))


def space_of(varied: Sequence[str], file: Path | None) -> Space:
    """Parse a space from `--vary` options and a `--space` file.

    Args:
        varied: Texts such as `student.width=4,8,16` or
            `stages.train_teacher.learning_rate=1e-3..0.1:log`.
        file: A YAML file: each path with a list, or with `{low, high, step}`, or `log: true`.

    Raises:
        InputError: A choice cannot be parsed, a path is repeated, or there is none.

    Example:
        >>> {path: str(one) for path, one in space_of(["student.width=4..16:4"], None).items()}
        {'student.width': '4 to 16 by 4'}
    """
    found: Space = {}
    problems: list[Problem] = []
    from_file = read(file) if file is not None else {}
    given = [
        (f"--space {path}", path, partial(_domain, content)) for path, content in from_file.items()
    ]
    for text in varied:
        path, _, value = (part.strip() for part in text.partition("="))
        given.append((f"--vary {path}", path, partial(_domain_of_text, value)))
    for where, path, domain_at in given:
        with gathering(problems):
            if path in found:
                raise InputError(Problem(where, path, "each path once"))
            if not path or not all(path.split(".")):
                raise InputError(Problem(where, path, "a path such as student.width"))
            found[path] = domain_at(where)
    if not found and not problems:
        fix = "Give --vary student.width=4,8,16, for example, or --space FILE."
        problems.append(Problem.missing("--vary", fix))
    if problems:
        raise InputError(*problems)
    return found


def _domain_of_text(text: str, where: str) -> Domain:
    match = RANGE.fullmatch(text)
    if match is None:
        return _domain(parse(f"[{text}]", where=where), where)
    low, high, scale = match.groups()
    content: dict[str, Any] = {"low": _number(low), "high": _number(high)}
    if scale is not None:
        content |= {"log": True} if scale == "log" else {"step": _number(scale)}
    return _domain(content, where)


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def _domain(content: Any, where: str) -> Domain:
    if isinstance(content, Mapping):
        try:
            return Range.model_validate(content)
        except ValidationError as error:
            raise InputError(*of_validation(error, Range, where)) from error
    values = content if isinstance(content, list) else [content]
    if len({json.dumps(value, sort_keys=True) for value in values}) < max(2, len(values)):
        fix = "A setting that does not vary goes into --set." if len(values) == 1 else ""
        raise InputError(Problem(where, content, f"two different choices or more, as {FORM}", fix))
    return Choices(tuple(values))


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
