"""Evaluation of a student against its teacher: runs the evaluations and collects their results."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

from pydantic import (
    BeforeValidator,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from limbeck.errors import InputError, Problem, did_you_mean, gathering
from limbeck.evaluate.finding import Finding
from limbeck.evaluate.interval import Result
from limbeck.evaluate.questions import QUESTIONS, RESULTS, WORKLOADS
from limbeck.evaluate.workload import describe

if TYPE_CHECKING:
    from limbeck.evaluate.sitting import Sitting


class Found(Protocol):
    """The interface of every evaluation's result."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Return the metric comparisons that it adds to the summary."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what could not be computed, and why."""
        ...


def _typed(value: object, info: ValidationInfo) -> object:
    """Parse a result as the type of its evaluation."""
    if isinstance(value, Result):
        return value
    name = info.data.get("question")
    if name not in RESULTS.names():
        raise ValueError(f"a result of a question that there is not: {name!r}")
    return RESULTS.load(name).model_validate(value)


class Asked(Result):
    """One evaluation and its result.

    Attributes:
        question: Its name.
        seconds: Its duration.
        found: The result, of the evaluation's type.
    """

    question: str
    seconds: float
    found: Annotated[SerializeAsAny[Result], BeforeValidator(_typed)]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Return the metric comparisons that it adds to the summary."""
        return cast("Found", self.found).findings

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what could not be computed, and why."""
        return cast("Found", self.found).notes


class Failed(Result):
    """One evaluation that raised an error.

    Attributes:
        question: Its name.
        seconds: Seconds until it failed.
        reason: The error.
    """

    question: str
    seconds: float
    reason: str


class Evaluation(Result):
    """The evaluations of one student.

    Attributes:
        asked: The completed ones, in order.
        failed: Those that raised an error.
        pending: Names of those still to come, in a run that continues or was interrupted.
    """

    asked: tuple[Asked, ...]
    failed: tuple[Failed, ...] = ()
    pending: tuple[str, ...] = ()

    def find(self, question: str) -> Any:
        """Return the result of an evaluation, or None if it was not run."""
        return next((one.found for one in self.asked if one.question == question), None)

    @property
    def findings(self) -> Iterator[Finding]:
        """Yield all metric comparisons."""
        for one in self.asked:
            yield from one.findings


LARGEST = 1_000_000
"""Upper bound of every setting; a larger one would exhaust the memory, or never end."""

Questions = Mapping[str, Mapping[str, Any]]
"""Names of evaluations, each with its settings."""


def check(questions: Questions) -> None:
    """Check the names and settings of evaluations, reporting all problems at once.

    Raises:
        InputError: An evaluation or a setting does not exist; the nearest names are listed.
    """
    problems = [problem for name in questions for problem in _problems(name, questions[name])]
    if problems:
        raise InputError(*problems)


def check_values(questions: Questions, classes: tuple[str, ...]) -> None:
    """Check, once the classes are known, what the types of settings leave open.

    An evaluation whose module defines `check(classes, *, ...)` of some settings is checked by it.

    Raises:
        InputError: Values are invalid: all of them, each with its place.
    """
    problems: list[Problem] = []
    for name, settings in questions.items():
        checked = getattr(sys.modules[QUESTIONS.load(name).__module__], "check", None)
        if checked is not None:
            taken = inspect.signature(checked).parameters
            given = {
                key: value for key, value in _converted(name, settings).items() if key in taken
            }
            with gathering(problems):
                checked(classes, **given)
    if problems:
        raise InputError(*problems)


def _problems(name: str, settings: Mapping[str, Any]) -> Iterator[Problem]:
    allowed = QUESTIONS.names()
    if name not in allowed:
        yield Problem("questions", name, ", ".join(allowed), did_you_mean(name, allowed))
        return
    known = _settings(name)
    for setting, value in settings.items():
        where = f"questions.{name}"
        if setting not in known:
            advice = did_you_mean(setting, known)
            yield Problem(where, setting, ", ".join(known) or "no settings", advice)
            continue
        if _is_absurd(value):
            yield Problem(f"{where}.{setting}", value, f"numbers of {LARGEST:,} at most in size")
            continue
        try:
            TypeAdapter(known[setting]).validate_python(value)
        except ValidationError as error:
            allowed_value = error.errors(include_url=False)[0]["msg"]
            yield Problem(f"{where}.{setting}", value, allowed_value)


def _is_absurd(value: object) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(one, int | float) and not abs(one) <= LARGEST for one in parts)


def _settings(name: str) -> dict[str, Any]:
    """Return the settings of an evaluation, with their types."""
    ask = QUESTIONS.load(name)
    # Annotations are strings of our own files; those of the context are for type checkers only.
    types = inspect.get_annotations(ask)
    return {
        setting: eval(types[setting], ask.__globals__)
        for setting in list(inspect.signature(ask).parameters)[1:]
    }


def evaluate(
    sitting: Sitting,
    questions: Questions | None = None,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Run evaluations of a student and its teacher, one after another.

    Args:
        sitting: The two models and the samples.
        questions: Names of evaluations with their settings; if None, all with their defaults.
        say: Called with the name of each evaluation as it starts.

    Raises:
        InputError: An evaluation or a setting does not exist.
    """
    wanted: Questions = {key: {} for key in QUESTIONS.names()} if questions is None else questions
    check(wanted)
    asked = []
    for name, settings in wanted.items():
        say(f"evaluation {name}: {estimate(sitting, name, settings)}")
        asked.append(evaluate_one(sitting, name, settings))
    return Evaluation(asked=tuple(asked))


def evaluate_one(sitting: Sitting, name: str, settings: Mapping[str, Any]) -> Asked:
    """Run one evaluation, whose name and settings were checked.

    Raises:
        InputError: A setting does not fit the data.
    """
    began = perf_counter()
    found = QUESTIONS.load(name)(sitting, **_converted(name, settings))
    return Asked(question=name, seconds=perf_counter() - began, found=found)


def estimate(sitting: Sitting, name: str, settings: Mapping[str, Any]) -> str:
    """Describe an evaluation's workload: its predictions, and their time by a measured probe."""
    defaults = inspect.signature(QUESTIONS.load(name)).parameters
    values = {key: defaults[key].default for key in _settings(name)} | _converted(name, settings)
    return describe(WORKLOADS.load(name)(sitting, **values), sitting)


def _converted(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    types = _settings(name)
    return {key: TypeAdapter(types[key]).validate_python(value) for key, value in settings.items()}
