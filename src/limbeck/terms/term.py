"""The specification of an objective's term, in a recipe or a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from limbeck.errors import InputError, Problem
from limbeck.per_unit import PerUnit
from limbeck.schedules import Spec

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
        weight: A number, a schedule, a value per element (`limbeck.per_unit`), or `"auto"`:
            gradient balancing, so that all terms' gradients have equal norms.
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
        weight: Spec | PerUnit | str = 1.0,
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
