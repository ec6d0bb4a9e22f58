"""What a student was asked beside its teacher, and what was found: every question's result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

from pydantic import BeforeValidator, SerializeAsAny, ValidationInfo

from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.evaluate.finding import Finding
from limbeck.evaluate.interval import Result
from limbeck.evaluate.questions import QUESTIONS, RESULTS

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


class Evaluation(Result):
    """Every question that was asked of one student, in order."""

    asked: tuple[Asked, ...]

    def find(self, question: str) -> Any:
        """Give what a question found, or nothing if it was not asked."""
        return next((one.found for one in self.asked if one.question == question), None)

    @property
    def findings(self) -> Iterator[Finding]:
        """All lines of the verdict."""
        for one in self.asked:
            yield from one.findings


def check(questions: Mapping[str, Any]) -> None:
    """Refuse questions that there are not, all at once.

    Raises:
        InputError: A name is no question's; the nearest ones are named.
    """
    allowed = QUESTIONS.names()
    unknown = [name for name in questions if name not in allowed]
    if unknown:
        raise InputError(
            *(
                Problem("questions", name, ", ".join(allowed), did_you_mean(name, allowed))
                for name in unknown
            )
        )


def evaluate(
    sitting: Sitting,
    questions: Sequence[str] | None = None,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Ask questions of a student and its teacher, one after another.

    Args:
        sitting: The two models and the samples.
        questions: Names of questions; all if None.
        say: Hears which question is being asked.

    Raises:
        InputError: There is no such question.
    """
    names = QUESTIONS.names() if questions is None else list(questions)
    check(dict.fromkeys(names))
    asked = []
    for name in names:
        say(f"question: {name}")
        began = perf_counter()
        found = QUESTIONS.load(name)(sitting)
        asked.append(Asked(question=name, seconds=perf_counter() - began, found=found))
    return Evaluation(asked=tuple(asked))
