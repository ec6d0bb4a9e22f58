"""What a student was asked beside its teacher, and what was found: every question's result."""

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
    """What every question's result holds, whatever else it holds for the page."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The lines that it adds to the verdict."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What it could not do, and why."""
        ...


def _typed(value: object, info: ValidationInfo) -> object:
    """Read a result as what its question finds."""
    if isinstance(value, Result):
        return value
    name = info.data.get("question")
    if name not in RESULTS.names():
        raise ValueError(f"a result of a question that there is not: {name!r}")
    return RESULTS.load(name).model_validate(value)


class Asked(Result):
    """One question and its answer.

    Attributes:
        question: Its name.
        seconds: How long it took.
        found: What was found, of the type of the question.
    """

    question: str
    seconds: float
    found: Annotated[SerializeAsAny[Result], BeforeValidator(_typed)]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The lines that it adds to the verdict."""
        return cast("Found", self.found).findings

    @property
    def notes(self) -> tuple[str, ...]:
        """What it could not do, and why."""
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
        asked: Those that ended, in order.
        failed: Those that raised an error.
        pending: Names of those that are still to come, in a run that goes on or was interrupted.
    """

    asked: tuple[Asked, ...]
    failed: tuple[Failed, ...] = ()
    pending: tuple[str, ...] = ()

    def find(self, question: str) -> Any:
        """Give what a question found, or nothing if it was not asked."""
        return next((one.found for one in self.asked if one.question == question), None)

    @property
    def findings(self) -> Iterator[Finding]:
        """All lines of the verdict."""
        for one in self.asked:
            yield from one.findings


LARGEST = 1_000_000
"""No setting of an evaluation is larger; a slip beyond would exhaust the memory, or never end."""

Questions = Mapping[str, Mapping[str, Any]]
"""Names of questions, each with its settings."""


def check(questions: Questions) -> None:
    """Refuse questions that there are not, and settings that they do not have, all at once.

    Raises:
        InputError: A name is no question's, or a setting is none of its; the nearest are named.
    """
    problems = [problem for name in questions for problem in _problems(name, questions[name])]
    if problems:
        raise InputError(*problems)


def check_values(questions: Questions, classes: tuple[str, ...]) -> None:
    """Check, once the classes are known, what the types of settings leave open.

    A question whose module has a `check(classes, *, ...)` of some of its settings is checked by it.

    Raises:
        InputError: A value is refused: all of them, each with its place.
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
    """Give the settings of a question, with their types."""
    ask = QUESTIONS.load(name)
    # Annotations are texts of our own files; those of a sitting are for type checkers alone.
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
    """Ask questions of a student and its teacher, one after another.

    Args:
        sitting: The two models and the samples.
        questions: Names of questions with their settings; all, with none, if None.
        say: Hears which question is being asked.

    Raises:
        InputError: There is no such question, or it has no such setting.
    """
    wanted: Questions = {key: {} for key in QUESTIONS.names()} if questions is None else questions
    check(wanted)
    asked = []
    for name, settings in wanted.items():
        say(f"evaluation {name}: {estimate(sitting, name, settings)}")
        asked.append(evaluate_one(sitting, name, settings))
    return Evaluation(asked=tuple(asked))


def evaluate_one(sitting: Sitting, name: str, settings: Mapping[str, Any]) -> Asked:
    """Run one evaluation; its name and settings were checked.

    Raises:
        InputError: A setting does not fit the data.
    """
    began = perf_counter()
    found = QUESTIONS.load(name)(sitting, **_converted(name, settings))
    return Asked(question=name, seconds=perf_counter() - began, found=found)


def estimate(sitting: Sitting, name: str, settings: Mapping[str, Any]) -> str:
    """Describe what an evaluation takes: its predictions, and their time by a measured probe."""
    defaults = inspect.signature(QUESTIONS.load(name)).parameters
    values = {key: defaults[key].default for key in _settings(name)} | _converted(name, settings)
    return describe(WORKLOADS.load(name)(sitting, **values), sitting)


def _converted(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    types = _settings(name)
    return {key: TypeAdapter(types[key]).validate_python(value) for key, value in settings.items()}
