"""The evaluations of a student against its teacher, one file each.

A folder defines a function `evaluate(context, **settings)`; its result's class is named after the
folder. Its function `workload(context, **settings)` computes the number of predictions.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar, cast

from pydantic import BeforeValidator, SerializeAsAny, TypeAdapter, ValidationError, ValidationInfo

from limbeck.core.measurement import Result
from limbeck.core.registry import Registry, camel_case
from limbeck.errors import InputError, Problem, did_you_mean, gathering
from limbeck.evaluate.comparison import MetricComparison
from limbeck.evaluate.context import describe

if TYPE_CHECKING:
    from limbeck.evaluate.context import EvaluationContext


R = TypeVar("R", bound=Result)
GROUP = "limbeck.evaluations"
"""The entry points of other packages: each names a module that is like a folder here."""

EVALUATIONS = Registry(
    "limbeck.evaluate", kind="evaluation", attribute="evaluate", folders=True, group=GROUP
)
"""Evaluations by name."""

WORKLOADS = Registry(
    "limbeck.evaluate", kind="evaluation", attribute="workload", folders=True, group=GROUP
)
"""Functions that compute an evaluation's workload, by name."""

RESULTS = Registry(
    "limbeck.evaluate", kind="evaluation", attribute=camel_case, folders=True, group=GROUP
)
"""Types of the results, by name."""


class EvaluationOutcome(Protocol):
    """The interface of every evaluation's result.

    Attributes:
        comparisons: The metric comparisons that it adds to the summary.
        notes: Reasons for what could not be computed.
    """

    comparisons: tuple[MetricComparison, ...]
    notes: tuple[str, ...]


def _typed(value: object, info: ValidationInfo) -> object:
    """Parse a result as the type of its evaluation."""
    if isinstance(value, Result):
        return value
    name = info.data.get("evaluation")
    if name not in RESULTS.names():
        raise ValueError(f"the result of an unknown evaluation: {name!r}")
    return RESULTS.load(name).model_validate(value)


class EvaluationResult(Result):
    """One evaluation by name, its duration, and its result, of the evaluation's type."""

    evaluation: str
    seconds: float
    result: Annotated[SerializeAsAny[Result], BeforeValidator(_typed)]

    @property
    def comparisons(self) -> tuple[MetricComparison, ...]:
        """Return the metric comparisons of the result."""
        return cast("EvaluationOutcome", self.result).comparisons

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the notes of the result."""
        return cast("EvaluationOutcome", self.result).notes

    @property
    def summary(self) -> str:
        """Return the result in one sentence, if it has a `summary`; else an empty text."""
        return str(getattr(self.result, "summary", ""))


class Failed(Result):
    """One evaluation that raised an error, after so many seconds."""

    evaluation: str
    seconds: float
    reason: str


class Evaluation(Result):
    """The evaluations of one student.

    Attributes:
        results: The completed ones, in order.
        failed: Those that raised an error.
        pending: Names of those not yet run, in a run that continues or was interrupted.
    """

    results: tuple[EvaluationResult, ...]
    failed: tuple[Failed, ...] = ()
    pending: tuple[str, ...] = ()

    def result_of(self, kind: type[R]) -> R | None:
        """Return the evaluation's result of that type, such as `Robustness`; None if there is none.

        Example:
            >>> from limbeck.evaluate.robustness import Robustness
            >>> Evaluation(results=()).result_of(Robustness) is None
            True
        """
        return next((one.result for one in self.results if isinstance(one.result, kind)), None)

    @property
    def comparisons(self) -> Iterator[MetricComparison]:
        """Yield all metric comparisons."""
        for one in self.results:
            yield from one.comparisons


LARGEST = 1_000_000
"""Upper bound of every setting; a larger one would exhaust the memory, or never end."""

EvaluationSettings = Mapping[str, Mapping[str, Any]]
"""Names of evaluations, each with its settings."""


def check(evaluations: EvaluationSettings) -> None:
    """Check the names and settings of evaluations, reporting all problems at once.

    Raises:
        InputError: An evaluation or a setting does not exist; the nearest names are listed.
    """
    problems = [problem for name in evaluations for problem in _problems(name, evaluations[name])]
    if problems:
        raise InputError(*problems)


def check_values(evaluations: EvaluationSettings, classes: tuple[str, ...]) -> None:
    """Check the values of settings that depend on the classes, reporting all problems at once.

    An evaluation whose module defines `check(classes, *, ...)` of some settings is checked by it.

    Raises:
        InputError: Values are invalid; each problem is listed with its place.
    """
    problems: list[Problem] = []
    for name, settings in evaluations.items():
        check_module = getattr(sys.modules[EVALUATIONS.load(name).__module__], "check", None)
        if check_module is not None:
            checked = inspect.signature(check_module).parameters
            converted = _converted(name, settings)
            with gathering(problems):
                check_module(
                    classes, **{key: converted[key] for key in converted if key in checked}
                )
    if problems:
        raise InputError(*problems)


def fits(name: str, *, classifier: bool, shared: bool) -> bool:
    """Return whether an evaluation fits a task.

    Args:
        name: The name of the evaluation. Its module sets `ANY_TASK = True` if it needs no classes,
            and `DRAWS_SAMPLES = True` if it selects single samples or changes their inputs.
        classifier: Whether the task predicts one class per sample.
        shared: Whether samples share inputs, such as the edges of a graph.
    """
    module = sys.modules[EVALUATIONS.load(name).__module__]
    of_classes = not getattr(module, "ANY_TASK", False)
    draws = getattr(module, "DRAWS_SAMPLES", False)
    return not (of_classes and not classifier) and not (draws and shared)


def depends_on_seeds(name: str) -> bool:
    """Return whether an evaluation reads the scores of all seeds: a module's `OF_ALL_SEEDS`."""
    return bool(getattr(sys.modules[EVALUATIONS.load(name).__module__], "OF_ALL_SEEDS", False))


def check_fit(evaluations: Iterable[str], *, classifier: bool, shared: bool, where: str) -> None:
    """Check that evaluations fit a task, see `fits`.

    Raises:
        InputError: Some compare predicted classes, of which there are none, or draw samples, which
            share inputs.
    """

    def fit(name: str) -> bool:
        return fits(name, classifier=classifier, shared=shared)

    unfit = sorted(name for name in evaluations if not fit(name))
    if unfit:
        drawn = "draw samples, which share inputs"
        reason = drawn if classifier else "compare the predicted classes of samples"
        allowed = f"{', '.join(filter(fit, EVALUATIONS.names()))}: the others {reason}"
        raise InputError(Problem(where, ", ".join(unfit), allowed))


def _problems(name: str, settings: Mapping[str, Any]) -> Iterator[Problem]:
    allowed = EVALUATIONS.names()
    if name not in allowed:
        yield Problem("evaluations", name, ", ".join(allowed), did_you_mean(name, allowed))
        return
    where, types = f"evaluations.{name}", _settings(name)
    for setting, value in settings.items():
        if setting not in types:
            advice = did_you_mean(setting, types)
            yield Problem(where, setting, ", ".join(types) or "no settings", advice)
            continue
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, int | float) and not abs(one) <= LARGEST for one in numbers):
            yield Problem(f"{where}.{setting}", value, f"numbers of {LARGEST:,} at most in size")
            continue
        try:
            TypeAdapter(types[setting]).validate_python(value)
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"]
            yield Problem(f"{where}.{setting}", value, message)


def _settings(name: str) -> dict[str, Any]:
    """Return the settings of an evaluation, with their types."""
    function = EVALUATIONS.load(name)
    # Annotations are strings of our own files; the first, of the context, cannot be evaluated: its
    # class is imported for type checkers only.
    types = inspect.get_annotations(function)
    return {
        setting: eval(types[setting], function.__globals__)
        for setting in list(inspect.signature(function).parameters)[1:]
    }


def _converted(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    types = _settings(name)
    return {key: TypeAdapter(types[key]).validate_python(value) for key, value in settings.items()}


def evaluate(
    context: EvaluationContext,
    evaluations: EvaluationSettings | None = None,
    *,
    log: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Run evaluations of a student and its teacher, one after another.

    Args:
        context: The two models and the samples.
        evaluations: Names of evaluations with their settings; if None, all with their defaults.
        log: Called with the name and the workload of each evaluation as it starts.

    Raises:
        InputError: An evaluation or a setting does not exist.
    """
    if evaluations is None:
        evaluations = {name: {} for name in EVALUATIONS.names()}
    check(evaluations)
    results = []
    for name, settings in evaluations.items():
        log(f"evaluation {name}: {estimate(context, name, settings)}")
        results.append(evaluate_one(context, name, settings))
    return Evaluation(results=tuple(results))


def evaluate_one(
    context: EvaluationContext, name: str, settings: Mapping[str, Any]
) -> EvaluationResult:
    """Run one evaluation, whose name and settings were checked.

    Raises:
        InputError: A setting does not fit the data.
    """
    start = perf_counter()
    result = EVALUATIONS.load(name)(context, **_converted(name, settings))
    return EvaluationResult(evaluation=name, seconds=perf_counter() - start, result=result)


def estimate(context: EvaluationContext, name: str, settings: Mapping[str, Any]) -> str:
    """Describe an evaluation's workload: its predictions, and their time by a measured probe."""
    parameters = inspect.signature(EVALUATIONS.load(name)).parameters
    values = {key: parameters[key].default for key in list(parameters)[1:]}
    return describe(WORKLOADS.load(name)(context, **values | _converted(name, settings)), context)
