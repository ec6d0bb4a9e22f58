"""One term of an objective: what a recipe or a program says, and that with every name looked up."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from limbeck import losses
from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.schedules import Constant, Schedule, Spec, is_number, parse
from limbeck.targets import DenseTargets

Loss: TypeAlias = Callable[..., Tensor]
Source: TypeAlias = Literal["labels", "targets", "logits", "tap"]

TASK = "task"
_SETTINGS = {"student": "logits", "teacher": "logits", "weight": 1.0, "connector": "auto"}


class Term:
    """One comparison, its weight and its settings: plain data until an `Objective` takes it.

    Args:
        loss: `"task"`, a name in `limbeck.losses`, or a function (student, teacher, **arguments)
            that answers with one value a unit, or with a scalar. If its second parameter is called
            `labels` it is given the labels; if `targets`, the teacher's `Targets`; otherwise a
            tensor.
        student: An output of the task, or the path of a module of the student.
        teacher: `"logits"`, `"labels"`, or the path of a module of the teacher.
        weight: A number or a schedule.
        connector: `"auto"` joins features of different shapes, `"none"` does not; or a module.
        **arguments: What else the loss takes. A schedule serves wherever a number does.

    Example:
        >>> Term("soft_target_kl", temperature={"linear": {"start": 10, "end": 1}}, weight=0.9)
        Term('soft_target_kl', weight=0.9, temperature={'linear': {'start': 10, 'end': 1}})
    """

    def __init__(
        self,
        loss: str | Loss,
        /,
        *,
        student: str = "logits",
        teacher: str = "logits",
        weight: Spec = 1.0,
        connector: str | nn.Module = "auto",
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
        given = {key: vars(self)[key] for key in _SETTINGS if vars(self)[key] != _SETTINGS[key]}
        settings = (f", {key}={value!r}" for key, value in (given | self.arguments).items())
        return f"Term({self.loss!r}{''.join(settings)})"


def read(entry: object, *, where: str) -> Term:
    """Make a term of what a recipe says, `{loss: {settings}}`, without looking anything up.

    Raises:
        InputError: It is not one loss with a mapping of settings.

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


@dataclass(frozen=True)
class Ready:
    """A term with everything looked up, so that a training step has only arithmetic to do.

    Attributes:
        name: The term's name in logs, unique in its objective.
        loss: The function; None is the task's own loss.
        source: What the loss is given second.
        joined: Whether a connector stands between student and teacher.
        fixed: The loss's arguments that stay.
        moving: Those that follow a schedule.
    """

    name: str
    loss: Loss | None
    source: Source
    student: str
    teacher: str
    student_is_tap: bool
    joined: bool
    weight: Schedule
    fixed: Mapping[str, Any]
    moving: Mapping[str, Schedule]

    def arguments(self, progress: float) -> Mapping[str, Any]:
        """Give the loss's arguments at this progress."""
        if not self.moving:
            return self.fixed
        return {**self.fixed, **_at(self.moving, progress)}


def prepare(terms: Iterable[tuple[str, Term]], *, outputs: Sequence[str]) -> list[Ready]:
    """Look up what terms name, and check what they set.

    Args:
        terms: Terms with their places, for messages.
        outputs: The names of the task's outputs; any other name is the path of a module.

    Raises:
        InputError: Every problem of every term at once.

    Example:
        >>> term = Term("soft_target_kl", temperature=4)
        >>> [ready] = prepare([("objective.0", term)], outputs=["logits"])
        >>> ready.name, ready.source, ready.weight, dict(ready.fixed)
        ('soft_target_kl', 'logits', Constant(value=1.0), {'temperature': 4.0})
    """
    ready: list[Ready] = []
    problems: list[Problem] = []
    for where, term in terms:
        try:
            name = _unique(_base_name(term.loss), [other.name for other in ready])
            ready.append(_prepare(term, name, f"{where}.{_base_name(term.loss)}", outputs))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)
    return ready


def _prepare(term: Term, name: str, where: str, outputs: Sequence[str]) -> Ready:
    loss = _find(term.loss, where)
    parameters = {} if loss is None else _parameters(loss)
    second = [*parameters, "", ""][1]
    hints = _hints(loss)
    weight, problems = _parsed(term.weight, f"{where}.weight")
    fixed, moving, of_schedules = _sorted_arguments(term, hints, where)
    problems += _settings_problems(term, where)
    problems += _argument_problems(term, loss, parameters, hints, where)
    problems += of_schedules
    if not problems and isinstance(term.loss, str) and loss is not None:
        problems += _probe(loss, second, fixed, moving, where)
    if problems:
        raise InputError(*problems)
    source = _source(term, second)
    is_tap = loss is not None and term.student not in outputs
    return Ready(
        name=name,
        loss=loss,
        source=source,
        student=term.student,
        teacher=term.teacher,
        student_is_tap=is_tap,
        joined=term.connector != "none" and source != "labels" and (is_tap or source == "tap"),
        weight=weight,
        fixed=fixed,
        moving=moving,
    )


def _sorted_arguments(
    term: Term, hints: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, Schedule], list[Problem]]:
    """Tell the arguments that stay from those that follow a schedule."""
    fixed: dict[str, Any] = {}
    moving: dict[str, Schedule] = {}
    problems: list[Problem] = []
    for key, value in term.arguments.items():
        if isinstance(value, Mapping | Schedule):
            moving[key], found = _parsed(value, f"{where}.{key}")
            problems += found
        else:
            whole_for_real = type(value) is int and _real(hints.get(key))
            fixed[key] = float(value) if whole_for_real else value
    return fixed, moving, problems


def _base_name(loss: str | Loss) -> str:
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return name.replace(".", "_")  # a module's child may not have a dot in its name


def _unique(base: str, taken: Sequence[str]) -> str:
    numbered = (f"{base}_{number}" for number in range(2, len(taken) + 2))
    return next(name for name in (base, *numbered) if name not in taken)


def _find(loss: str | Loss, where: str) -> Loss | None:
    if not isinstance(loss, str):
        if not callable(loss):
            raise InputError(Problem(where, loss, "the name of a loss, or a function"))
        return loss
    if loss == TASK:
        return None
    if loss not in losses.__all__:
        allowed = [TASK, *losses.__all__]
        raise InputError(Problem(where, loss, ", ".join(allowed), did_you_mean(loss, allowed)))
    return losses.find(loss)


def _parameters(loss: Loss) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(loss).parameters)
    except ValueError:  # some of torch's own functions do not say what they take
        return {"student": _ANY, "teacher": _ANY, "arguments": _REST}


_ANY = inspect.Parameter("_", inspect.Parameter.POSITIONAL_ONLY)
_REST = inspect.Parameter("_", inspect.Parameter.VAR_KEYWORD)


def _source(term: Term, second: str) -> Source:
    if second == "labels" or term.teacher == "labels":
        return "labels"
    if term.teacher != "logits":
        return "tap"
    return "targets" if second == "targets" else "logits"


def _parsed(spec: object, where: str) -> tuple[Schedule, list[Problem]]:
    try:
        return parse(spec, where=where), []
    except InputError as error:
        return Constant(0.0), list(error.problems)


def _settings_problems(term: Term, where: str) -> list[Problem]:
    problems = [
        Problem(f"{where}.{key}", vars(term)[key], "the name of an output or the path of a module")
        for key in ("student", "teacher")
        if not isinstance(vars(term)[key], str)
    ]
    if not isinstance(term.connector, nn.Module) and term.connector not in ("auto", "none"):
        fix = did_you_mean(term.connector, ("auto", "none"))
        problems.append(Problem(f"{where}.connector", term.connector, "auto, none", fix))
    return problems


def _argument_problems(
    term: Term,
    loss: Loss | None,
    parameters: Mapping[str, inspect.Parameter],
    hints: Mapping[str, Any],
    where: str,
) -> list[Problem]:
    """Compare the arguments with the loss's signature: unknown, missing, of a wrong type."""
    rest = dict(list(parameters.items())[2:])  # nothing for the task's own loss
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in rest.values()):
        return []
    names = [*rest, *(("weight",) if loss is None else _SETTINGS)]
    problems = []
    for key, value in term.arguments.items():
        if key not in rest:
            fix = did_you_mean(key, names)
            problems.append(Problem(f"{where}.{key}", value, ", ".join(names), fix))
        elif not isinstance(value, Mapping | Schedule) and (
            allowed := _misfit(hints.get(key), value)
        ):
            problems.append(
                Problem(f"{where}.{key}", value, allowed, did_you_mean(value, allowed.split(", ")))
            )
    problems += [
        Problem(f"{where}.{key}", "nothing", "a value; it is required")
        for key, parameter in rest.items()
        if parameter.default is parameter.empty and key not in term.arguments
    ]
    return problems


def _at(moving: Mapping[str, Schedule], progress: float) -> dict[str, float]:
    return {key: float(schedule(progress)) for key, schedule in moving.items()}


def _real(hint: Any) -> bool:
    return hint is float or float in get_args(hint)


def _hints(loss: Loss | None) -> Mapping[str, Any]:
    try:
        return {} if loss is None else get_type_hints(loss)
    except (TypeError, NameError):  # a partial, or names that exist for the type checker only
        return {}


def _misfit(hint: Any, value: object) -> str:
    """Say what an annotation allows if the value is not that; empty if it fits or is unknown."""
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


def _probe(
    loss: Loss, second: str, fixed: Mapping[str, Any], moving: Mapping[str, Schedule], where: str
) -> list[Problem]:
    """Let the loss itself say what it thinks of its arguments, before hours of training go by.

    Only what it says about an argument counts: the tensors here are not of the shape that every
    loss asks for.
    """
    logits = torch.zeros(1, 2)
    other = {"labels": torch.zeros(1, dtype=torch.long), "targets": DenseTargets(logits)}
    found: dict[str, Problem] = {}
    for progress in (0.0, 0.5, 1.0) if moving else (0.0,):
        now = _at(moving, progress)
        try:
            loss(logits, other.get(second, logits), **fixed, **now)
        except InputError as error:
            for problem in error.problems:
                key = problem.where.rpartition(".")[2]
                if key in fixed or key in now:
                    found.setdefault(
                        key, Problem(f"{where}.{key}", problem.given, problem.allowed, problem.fix)
                    )
    return list(found.values())
