"""The specification of an objective's term, in a recipe or a program."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, TypeAlias, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from limbeck.connectors import BUILDERS
from limbeck.core.numbers import is_number
from limbeck.errors import InputError, Problem, did_you_mean, key_problems
from limbeck.objective import element_weights, schedules
from limbeck.objective.element_weights import PerElement
from limbeck.objective.schedules import Constant, Schedule, Spec
from limbeck.targets import DenseTargets

Loss: TypeAlias = Callable[..., Tensor]
Paths: TypeAlias = str | Sequence[str]
TASK = "task"
AUTO = "auto"
PYTHON = "python:"
DEFAULTS = {"student": "logits", "teacher": "logits", "weight": 1.0, "connector": "auto"}


class Term:
    """One loss with its weight and settings: plain data until an `Objective` resolves it.

    Args:
        loss: `"task"`, a name in `limbeck.losses`, `"python:file.py:function"`, or a function
            (student, teacher, **arguments) that returns one value per element, or a scalar. If its
            second parameter is named `labels` it receives the labels; if `targets`, the teacher's
            `Targets`; otherwise a tensor. Keyword parameters named `labels`, `index` and `mask` are
            filled from the batch.
        student: An output of the task, or the path of a module of the student; or several paths,
            for a loss over several layers.
        teacher: `"logits"`, `"labels"`, or the path of a module of the teacher; or several paths.
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
        student: Paths = "logits",
        teacher: Paths = "logits",
        weight: Spec | PerElement | str = 1.0,
        connector: str | nn.Module | Mapping[str, Any] = "auto",
        **arguments: Any,
    ) -> None:
        self.loss = loss
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
    rest = {parameter.name: parameter for parameter in parameters[2:]}
    reserved = tuple(name for name in INPUTS if name in rest)
    needed = tuple(name for name in reserved if rest[name].default is inspect.Parameter.empty)
    others = _OF_RESPONSE if getattr(loss, "__name__", "") == FUSED else ()
    return Signature(
        second=parameters[1].name if len(parameters) > 1 else "",
        keywords={name: rest[name] for name in rest if name not in (*reserved, *others)},
        inputs=tuple(name for name in reserved if name in needed or name == "mask"),
        needed=needed,
        open=any(parameter.kind is parameter.VAR_KEYWORD for parameter in rest.values()),
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

    def at(self, progress: float) -> dict[str, Any]:
        """Return the arguments at this progress."""
        return {**self.constant, **{key: float(of(progress)) for key, of in self.scheduled.items()}}


def sort_arguments(term: Term, signature: Signature, where: str) -> Arguments:
    """Split the arguments into constant, scheduled and per-element ones."""
    found = Arguments()
    for key, value in term.arguments.items():
        place = f"{where}.{key}"
        if element_weights.is_per_element(value):
            _per_element(found, term, key, value, place)
        elif isinstance(value, Schedule) or (
            isinstance(value, Mapping) and not _is_mapping(signature.hints.get(key))
        ):
            found.scheduled[key] = _parsed(value, place, found.problems)
        else:
            whole_for_real = type(value) is int and _real(signature.hints.get(key))
            found.constant[key] = float(value) if whole_for_real else value
    return found


def _per_element(found: Arguments, term: Term, key: str, value: Any, where: str) -> None:
    if key != "temperature" or term.loss not in TEMPERATURE_LOSSES:
        allowed = "a number or a schedule"
        losses = ", ".join(TEMPERATURE_LOSSES)
        fix = f"Only a weight, and the temperature of {losses}, differ per element."
        found.problems.append(Problem(where, value, allowed, fix))
        return
    try:
        found.element_temperature = element_weights.parse(value, where=where)
        found.constant[key] = 1.0  # the logits are divided beforehand
    except InputError as error:
        found.problems += error.problems


@dataclass(frozen=True)
class Weight:
    """A term's weight: scheduled, per element, or automatic."""

    by_progress: Schedule = field(default_factory=lambda: Constant(1.0))
    per_element: PerElement | None = None
    auto: bool = False


def weight_of(term: Term, where: str, problems: list[Problem]) -> Weight:
    """Parse a term's weight."""
    if term.weight == AUTO:
        return Weight(auto=True)
    if element_weights.is_per_element(term.weight):
        try:
            return Weight(per_element=element_weights.parse(term.weight, where=where))
        except InputError as error:
            problems += error.problems
            return Weight()
    return Weight(_parsed(term.weight, where, problems))


def _parsed(spec: object, where: str, problems: list[Problem]) -> Schedule:
    try:
        return schedules.parse(spec, where=where)
    except InputError as error:
        problems += error.problems
        return Constant(0.0)


def settings_problems(term: Term, where: str) -> list[Problem]:
    """Return the problems of the settings that every term has."""
    allowed = "the name of an output, the path of a module, or several paths"
    problems = [
        Problem(f"{where}.{key}", vars(term)[key], allowed)
        for key in ("student", "teacher")
        if not _are_paths(vars(term)[key])
    ]
    settings = isinstance(term.connector, nn.Module | Mapping)
    if not settings and term.connector not in ("auto", "none"):
        fix = did_you_mean(term.connector, ("auto", "none"))
        allowed = "auto, none, or a mapping of settings"
        problems.append(Problem(f"{where}.connector", term.connector, allowed, fix))
    return problems


def _are_paths(value: object) -> bool:
    if isinstance(value, str):
        return True
    return (
        isinstance(value, Sequence) and bool(value) and all(isinstance(one, str) for one in value)
    )


def argument_problems(term: Term, signature: Signature, where: str) -> list[Problem]:
    """Check the arguments against the loss's signature: unknown, missing or of a wrong type."""
    if signature.open:
        return []
    names = [*signature.keywords, *(("weight",) if term.loss == "task" else DEFAULTS)]
    problems = key_problems(term.arguments, names, _required(term, signature), where=where)
    for key, value in term.arguments.items():
        place = f"{where}.{key}"
        if _is_absurd(value):
            allowed = f"a number of {LARGEST:,} at most in size"
            problems.append(Problem(place, value, allowed))
        elif (
            key in signature.keywords
            and not isinstance(value, Mapping | Schedule | PerElement)
            and (allowed := _misfit(signature.hints.get(key), value))
        ):
            fix = did_you_mean(value, allowed.split(", "))
            problems.append(Problem(place, value, allowed, fix))
    return problems


def _is_absurd(value: object) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return any(is_number(one) and not abs(one) <= LARGEST for one in parts)


def setting_problems(hint: Any, value: object, where: str) -> list[Problem]:
    """Compare the value of a method's setting with the annotation of its parameter.

    Example:
        >>> print(*setting_problems(float, "high", "hinton.alpha"))
        hinton.alpha: got 'high'; allowed: a finite number
    """
    if hint in (Spec, Spec | PerElement):
        return []  # handed on as it is: the term checks it
    if hint == Paths:
        allowed = "" if _are_paths(value) else "the path of a module, or several paths"
    elif hint == Sequence[float]:
        several = isinstance(value, Sequence) and not isinstance(value, str)
        fits = several and bool(value) and all(map(is_number, cast("Sequence[Any]", value)))
        allowed = "" if fits else "a list of finite numbers"
    else:
        # A method computes with a plain number, so that a schedule cannot stand for it.
        allowed = _misfit(hint, value).removesuffix(" or a schedule")
    return [Problem(where, value, allowed)] if allowed else []


def _required(term: Term, signature: Signature) -> list[str]:
    if term.loss in BUILDERS:  # its inputs beyond the features come from a trained connector
        return []
    return [key for key, one in signature.keywords.items() if one.default is one.empty]


def probe(
    term: Term, loss: Loss, signature: Signature, arguments: Arguments, where: str
) -> list[Problem]:
    """Call the loss on small tensors, and return the problems of its arguments.

    Only errors about an argument count: the shapes of these tensors do not fit every loss.
    """
    # Without a shape checker around it, as in the tests.
    bare = inspect.unwrap(loss)
    logits, nought = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
    second = {"labels": nought, "targets": DenseTargets(logits)}.get(signature.second, logits)
    filled = dict.fromkeys(signature.needed, nought)
    learned = {
        name: torch.ones(2)
        for name, parameter in signature.keywords.items()
        if parameter.default is parameter.empty and name not in term.arguments
    }
    found: dict[str, Problem] = {}
    for progress in (0.0, 0.5, 1.0) if arguments.scheduled else (0.0,):
        now = arguments.at(progress)
        try:
            bare(logits, second, **learned, **filled, **now)
        except InputError as error:
            for problem in error.problems:
                key = problem.where.rpartition(".")[2]
                if key in now:
                    found.setdefault(
                        key, Problem(f"{where}.{key}", problem.given, problem.allowed, problem.fix)
                    )
        # Other exceptions on these tensors are not about the arguments.
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            continue
    return list(found.values())


def _hints(loss: Loss) -> Mapping[str, Any]:
    try:
        return get_type_hints(loss)
    except (TypeError, NameError):  # a partial, or names that exist for the type checker only
        return {}


def _real(hint: Any) -> bool:
    return hint is float or float in get_args(hint)


def _is_mapping(hint: Any) -> bool:
    return get_origin(hint) in (dict, Mapping)


def _misfit(hint: Any, value: object) -> str:
    """Return the types allowed by an annotation if the value does not match; else an empty text."""
    if NoneType in get_args(hint):
        if value is None:
            return ""
        hint = next(option for option in get_args(hint) if option is not NoneType)
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return "" if value in choices else ", ".join(map(str, choices))
    fits, allowed = _SIMPLE.get(hint, (None, "")) if isinstance(hint, type) else (None, "")
    return "" if fits is None or fits(value) else allowed


_SIMPLE: dict[type, tuple[Callable[[object], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "true, false"),
    int: (lambda value: is_number(value) and isinstance(value, int), "a whole number"),
    float: (is_number, "a finite number or a schedule"),
    str: (lambda value: isinstance(value, str), "a word"),
}
