"""The specification of an objective's term, in a recipe or a program."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias, get_type_hints

from pydantic import Field
from torch import Tensor, nn

from limbeck import connectors
from limbeck.core.annotations import OnlyWith, json_schema, validate
from limbeck.core.numbers import is_number
from limbeck.errors import InputError, Problem, did_you_mean, gathering, key_problems
from limbeck.objective import element_weights, schedules
from limbeck.objective.element_weights import PerElement
from limbeck.objective.schedules import Constant, Schedule, Spec

Loss: TypeAlias = Callable[..., Tensor]
Paths: TypeAlias = Annotated[
    str | Annotated[Sequence[str], Field(min_length=1)],
    Field(description="the path of a module, or several paths"),
]
ScheduleSpec: TypeAlias = Annotated[
    Mapping[str, Any], Field(min_length=1, max_length=1, description="a schedule")
]
TASK = "task"
AUTO = "auto"
LABELS = "labels"
DEFAULTS = {"output": None, "student": None, "teacher": None, "weight": 1.0, "connector": "auto"}


class Term:
    """One loss with its weight and settings: plain data until an `Objective` resolves it.

    Args:
        loss: `"task"`, a name in `limbeck.losses`, `"python:file.py:function"`, or a function
            (student, teacher, **arguments) that returns one value per element, or a scalar. If its
            second parameter is named `labels` it receives the labels; if `targets`, the teacher's
            `Targets`; otherwise a tensor. Keyword parameters named `labels`, `index` and `mask` are
            filled from the batch.
        output: The task's output whose values, targets and element weights the term uses; None for
            the primary one.
        student: The path of a module of the student, or several for a loss over several layers;
            None compares the output itself.
        teacher: The path of a module of the teacher, or several; `"labels"`; None for the teacher's
            targets of the output.
        weight: A number, a schedule, a value per element (`limbeck.objective.element_weights`), or
            `"auto"`: gradient balancing, so that all terms' gradients have equal norms.
        connector: `"auto"` connects features of different shapes, `"none"` does not; a module; or a
            mapping of settings for the loss's own connector.
        **arguments: Further arguments of the loss. Any number may be a schedule, and a temperature
            may be set per element, too.

    Example:
        >>> Term("soft_target_kl", temperature={"linear": {"start": 10, "end": 1}}, weight=0.9)
        Term('soft_target_kl', weight=0.9, temperature={'linear': {'start': 10, 'end': 1}})
    """

    def __init__(
        self,
        loss: str | Loss,
        /,
        *,
        output: str | None = None,
        student: Paths | None = None,
        teacher: Paths | None = None,
        weight: Spec | PerElement | str = 1.0,
        connector: str | nn.Module | Mapping[str, Any] = "auto",
        **arguments: Any,
    ) -> None:
        self.loss = loss
        self.output = output
        self.student = student
        self.teacher = teacher
        self.weight = weight
        self.connector = connector
        self.arguments = arguments

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Term) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # its settings may be mappings, which do not hash

    def __repr__(self) -> str:
        given = {key: vars(self)[key] for key in DEFAULTS if vars(self)[key] != DEFAULTS[key]}
        settings = (f", {key}={value!r}" for key, value in (given | self.arguments).items())
        return f"Term({self.loss!r}{''.join(settings)})"


def read(entry: object, *, where: str) -> Term:
    """Build a term from a recipe's entry, `{loss: {settings}}`, without resolving names.

    Raises:
        InputError: The entry is not one loss with a mapping of settings.

    Example:
        >>> read({"task": {"weight": 0.1}}, where="objective.0")
        Term('task', weight=0.1)
    """
    allowed = "one loss with its settings, {loss: {setting: value}}"
    if isinstance(entry, str):
        entry = {entry: None}
    if not (isinstance(entry, Mapping) and len(entry) == 1):
        raise InputError(Problem(where, entry, allowed))
    ((name, settings),) = entry.items()
    settings = {} if settings is None else settings
    if not isinstance(name, str):
        raise InputError(Problem(where, name, allowed))
    if not (isinstance(settings, Mapping) and all(isinstance(key, str) for key in settings)):
        raise InputError(Problem(f"{where}.{name}", settings, "a mapping of settings"))
    return Term(name, **settings)


INPUTS = ("labels", "index", "mask")
"""Keyword parameters of a loss that the batch fills: those without a default, and the mask."""

LARGEST = 1_000_000
"""No argument of a loss is larger; a slip beyond would exhaust the memory, or never end."""

FUSED = "fused_divergence"  # has hidden states and a head as inputs, not logits
_OF_RESPONSE = ("bias", "softcap", "targets", "weights", "reduction")
# Losses whose temperature divides the logits of both sides, with T² in the value: only then is a
# temperature per element equal to dividing the logits beforehand.
TEMPERATURE_LOSSES = ("dkd", "divergence", "soft_target_kl")


@dataclass(frozen=True)
class Signature:
    """The signature of a loss.

    Attributes:
        second: The name of the second parameter.
        keywords: The other parameters, without those filled from the batch.
        inputs: The parameters filled from the batch.
        needed: Those of `inputs` without a default.
        open: Whether the loss accepts any keyword.
        hints: The type hints of the parameters.
    """

    second: str = ""
    keywords: Mapping[str, inspect.Parameter] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    open: bool = False
    hints: Mapping[str, Any] = field(default_factory=dict)


def signature_of(loss: Loss | None) -> Signature:
    """Read a loss's signature; None is the task's own loss, which has no arguments."""
    if loss is None:
        return Signature()
    try:
        parameters = list(inspect.signature(loss).parameters.values())
    except ValueError:  # some of torch's functions have no signature
        return Signature(second="teacher", open=True)
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    rest = {one.name: one for one in parameters[2:] if one.kind not in open_ended}
    reserved = tuple(name for name in INPUTS if name in rest)
    needed = tuple(name for name in reserved if rest[name].default is inspect.Parameter.empty)
    others = _OF_RESPONSE if getattr(loss, "__name__", "") == FUSED else ()
    return Signature(
        second=parameters[1].name if len(parameters) > 1 else "",
        keywords={name: rest[name] for name in rest if name not in (*reserved, *others)},
        inputs=tuple(name for name in reserved if name in needed or name == "mask"),
        needed=needed,
        open=any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters),
        hints=_hints(loss),
    )


@dataclass
class Arguments:
    """A term's arguments by kind, with their problems.

    Attributes:
        constant: The constant arguments.
        scheduled: The scheduled arguments.
        element_temperature: The temperature, if it is set per element.
        problems: The problems.
    """

    constant: dict[str, Any] = field(default_factory=dict)
    scheduled: dict[str, Schedule] = field(default_factory=dict)
    element_temperature: PerElement | None = None
    problems: list[Problem] = field(default_factory=list)


def read_arguments(term: Term, signature: Signature, where: str) -> Arguments:
    """Validate the arguments, and split them into constant, scheduled and per-element ones."""
    found = Arguments()
    if not signature.open:
        names = [*signature.keywords, *(("output", "weight") if term.loss == TASK else DEFAULTS)]
        found.problems += key_problems(
            term.arguments, names, _required(term, signature), where=where
        )
    for key, value in term.arguments.items():
        place = f"{where}.{key}"
        if key not in signature.keywords and not signature.open:
            continue
        with gathering(found.problems):
            if element_weights.is_per_element(value):
                found.element_temperature = _per_element_temperature(term, key, value, place)
                found.constant[key] = 1.0  # the logits are divided beforehand
                continue
            setting = _validated(signature.hints.get(key, Any), value, place)
            _check_choices(term, key, signature, place)
            kind = found.scheduled if isinstance(setting, Schedule) else found.constant
            kind[key] = setting
    return found


def _check_choices(term: Term, key: str, signature: Signature, where: str) -> None:
    """Raise an error for an argument that another argument's choice does not allow."""
    value = term.arguments[key]
    for constraint in getattr(signature.hints.get(key), "__metadata__", ()):
        if isinstance(constraint, OnlyWith) and value:
            other = signature.keywords[constraint.parameter]
            if term.arguments.get(other.name, other.default) != constraint.choice:
                raise InputError(Problem(where, value, str(constraint), "Leave it out."))


def setting_type(hint: Any) -> Any:
    """Return the type of a loss's setting in a recipe: a float may be a schedule as well."""
    schema = json_schema(hint)
    scheduled = any(one.get("type") == "number" for one in schema.get("anyOf", [schema]))
    return hint | ScheduleSpec if scheduled else hint


def _validated(hint: Any, value: Any, where: str) -> Any:
    """Return the value in its type, or as a schedule, all of whose values are of the type."""
    setting = setting_type(hint)
    maybe_schedule = isinstance(value, Mapping) and (hint is Any or setting is not hint)
    if isinstance(value, Schedule) or maybe_schedule:
        schedule = schedules.parse(value, where=where)
        for place, number in schedules.numbers(schedule):
            _limited(hint, float(number), f"{where}.{place}")
        return schedule
    return _limited(setting, value, where)


def _limited(annotation: Any, value: Any, where: str) -> Any:
    parts = value if isinstance(value, list | tuple) else [value]
    if any(is_number(one) and abs(one) > LARGEST for one in parts):
        raise InputError(Problem(where, value, f"a number of {LARGEST:,} at most in size"))
    return validate(annotation, value, where=where)


def _per_element_temperature(term: Term, key: str, value: Any, where: str) -> PerElement:
    if key != "temperature" or term.loss not in TEMPERATURE_LOSSES:
        losses = ", ".join(TEMPERATURE_LOSSES)
        fix = f"Only a weight, and the temperature of {losses}, differ per element."
        raise InputError(Problem(where, value, "a number or a schedule", fix))
    return element_weights.parse(value, where=where)


@dataclass(frozen=True)
class Weight:
    """A term's weight: scheduled, per element, or automatic."""

    by_progress: Schedule = field(default_factory=lambda: Constant(1.0))
    per_element: PerElement | None = None
    auto: bool = False


def weight_of(term: Term, where: str) -> Weight:
    """Parse a term's weight."""
    if term.weight == AUTO:
        return Weight(auto=True)
    if element_weights.is_per_element(term.weight):
        return Weight(per_element=element_weights.parse(term.weight, where=where))
    return Weight(schedules.parse(term.weight, where=where))


def check_settings(term: Term, where: str) -> None:
    """Check the settings that every term has.

    Raises:
        InputError: The message lists every problem.
    """
    problems: list[Problem] = []
    for key in ("student", "teacher"):
        with gathering(problems):
            validate(Paths | None, vars(term)[key], where=f"{where}.{key}")
    if isinstance(term.connector, Mapping):
        with gathering(problems):
            connectors.check_settings(str(term.loss), term.connector, where=f"{where}.connector")
    elif not isinstance(term.connector, nn.Module) and term.connector not in ("auto", "none"):
        fix = did_you_mean(term.connector, ("auto", "none"))
        allowed = "auto, none, or a mapping of settings"
        problems.append(Problem(f"{where}.connector", term.connector, allowed, fix))
    if problems:
        raise InputError(*problems)


def _required(term: Term, signature: Signature) -> list[str]:
    # Inputs beyond the features come from a trained connector.
    if term.loss in connectors.BUILDERS:
        return []
    return [key for key, one in signature.keywords.items() if one.default is one.empty]


def _hints(loss: Loss) -> Mapping[str, Any]:
    try:
        return get_type_hints(loss, include_extras=True)
    except (TypeError, NameError):  # a partial, or names that exist for the type checker only
        return {}
