"""What a student is trained on: weighted terms, averaged over units in one place.

Losses answer with one value a unit and know no weights; only the `Objective` weights, masks and
averages.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from limbeck.connectors import connect
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.targets import Targets
from limbeck.terms import Ready, Term, prepare, read

__all__ = ["Answers", "Losses", "Objective", "Responds", "Term", "TermLoss"]


@runtime_checkable
class Responds(Protocol):
    """What the objective reads of a student's response (`limbeck.tasks.Response`)."""

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """The student's answers by name, each `[units, ...]`."""

    @property
    def labels(self) -> Tensor:
        """The right answers, `[units]`."""

    @property
    def weights(self) -> Tensor:
        """How much each unit counts, `[units]`."""

    @property
    def sample_of(self) -> Tensor:
        """Which sample each unit came from, `[units]`."""

    @property
    def taps(self) -> Mapping[str, Tensor]:
        """Features by path, `[samples, ...]`."""


@runtime_checkable
class Answers(Protocol):
    """What the objective reads of a teacher's answer (`limbeck.teachers.Answer`)."""

    @property
    def targets(self) -> Targets:
        """The teacher's soft answer, one row a unit."""

    @property
    def taps(self) -> Mapping[str, Tensor]:
        """Features by path, `[samples, ...]`."""


class TermLoss(NamedTuple):
    """A term's mean over units, raw and times its weight; for the log, without gradient."""

    raw: Tensor
    weighted: Tensor


@dataclass(frozen=True)
class Losses:
    """What an objective says to one micro-batch.

    Attributes:
        total: The sum of the weighted terms; the only tensor here that carries a gradient.
        terms: Each term, raw and weighted, by its name.
    """

    total: Tensor
    terms: Mapping[str, TermLoss]

    def check(self) -> None:
        """Stop on what is not finite; waits for the device once.

        Raises:
            LimbeckError: The total is not finite; the message names the terms and their values.

        Example:
            >>> bad = torch.tensor(float("nan"))
            >>> Losses(bad, {"soft_target_kl": TermLoss(bad, bad)}).check()
            Traceback (most recent call last):
            ...
            limbeck.errors.LimbeckError: the loss is not finite: soft_target_kl = nan...
        """
        if math.isfinite(self.total.item()):
            return
        values = {name: term.weighted.item() for name, term in self.terms.items()}
        bad = {name: value for name, value in values.items() if not math.isfinite(value)} or values
        named = ", ".join(f"{name} = {value}" for name, value in bad.items())
        raise LimbeckError(
            f"the loss is not finite: {named}. Lower the learning rate, clip gradients, "
            "or look for such numbers in the data."
        )


class Objective:
    """A sum of weighted terms, each a mean over the units that count.

    A term of one value a unit is averaged as sum(weight · value) / sum(weight) with the response's
    weights. A term over features has one value a sample, and a sample weighs what its units weigh
    together. A scalar is taken as it is. Units of weight 0 are left out, and a batch without
    weight gives 0 with a gradient of 0.

    Args:
        terms: At least one.
        outputs: The names of the task's outputs; any other name in a term is the path of a module.

    Attributes:
        connectors: What joins the student's features to the teacher's, by the name of the term.
            Trains with the student.

    Raises:
        InputError: Every problem of every term at once.

    Example:
        >>> from types import SimpleNamespace
        >>> from limbeck.targets import DenseTargets
        >>> index, logits = torch.arange(2), torch.zeros(2, 2)
        >>> response = SimpleNamespace(
        ...     outputs={"logits": logits},
        ...     labels=index,
        ...     weights=torch.ones(2),
        ...     sample_of=index,
        ...     taps={},
        ... )
        >>> answer = SimpleNamespace(targets=DenseTargets(torch.eye(2)), taps={})
        >>> objective = Objective(
        ...     [Term("cross_entropy"), Term("soft_target_kl", temperature=4.0, weight=0.9)]
        ... )
        >>> losses = objective(response, answer)
        >>> {name: round(term.raw.item(), 4) for name, term in losses.terms.items()}
        {'cross_entropy': 0.6931, 'soft_target_kl': 0.124}
    """

    def __init__(self, terms: Iterable[Term], *, outputs: Sequence[str] = ("logits",)) -> None:
        self.terms = tuple(terms)
        self.connectors = nn.ModuleDict()
        if not self.terms:
            raise InputError(Problem("objective", "no terms", "at least one term"))
        placed = [(f"objective.{place}", term) for place, term in enumerate(self.terms)]
        self._ready = prepare(placed, outputs=outputs)
        for ready, term in zip(self._ready, self.terms, strict=True):
            if isinstance(term.connector, nn.Module):
                self.connectors[ready.name] = term.connector

    @classmethod
    def from_recipe(
        cls, entries: object, *, where: str = "objective", outputs: Sequence[str] = ("logits",)
    ) -> Objective:
        """Make an objective of what a recipe says.

        Args:
            entries: A list of `{name of a loss: {settings}}`.
            where: What to call the place in a message.
            outputs: The names of the task's outputs.

        Raises:
            InputError: Every problem of every entry at once.

        Example:
            >>> Objective.from_recipe([{"task": {}}, {"soft_target_kl": {"temprature": 4.0}}])
            Traceback (most recent call last):
            ...
            limbeck.errors.InputError: objective.1.soft_target_kl.temprature: got 4.0; ... did
            you mean "temperature"?
            objective.1.soft_target_kl.temperature: got 'nothing'; allowed: a value; it is required
        """
        if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
            raise InputError(Problem(where, entries, "a list of {loss: {setting: value}}"))
        problems: list[Problem] = []
        terms: list[Term] = []
        for position, entry in enumerate(entries):
            place = f"{where}.{position}"
            try:
                terms.append(read(entry, where=place))
                prepare([(place, terms[-1])], outputs=outputs)
            except InputError as error:
                problems += error.problems
        if problems:
            raise InputError(*problems)
        return cls(terms, outputs=outputs)

    @functools.cached_property
    def student_taps(self) -> list[str]:
        """The paths of the student's modules that terms look at."""
        return list(dict.fromkeys(t.student for t in self._ready if t.loss and t.student_is_tap))

    @functools.cached_property
    def teacher_taps(self) -> list[str]:
        """The paths of the teacher's modules that terms look at."""
        return list(dict.fromkeys(t.teacher for t in self._ready if t.loss and t.source == "tap"))

    @functools.cached_property
    def needs_teacher(self) -> bool:
        """Whether any term looks at a teacher."""
        return any(t.loss is not None and t.source != "labels" for t in self._ready)

    def connect(self, response: Responds, answer: Answers) -> None:
        """Build the connectors that are still missing, from one probe.

        Args:
            response: The student's response to any batch.
            answer: The teacher's answer to the same batch.

        Raises:
            InputError: Features that cannot be joined; all such terms at once.
        """
        problems: list[Problem] = []
        for ready in self._ready:
            if ready.joined and ready.name not in self.connectors:
                ours, theirs = _student(ready, response), _teacher(ready, response, answer)
                try:
                    self.connectors[ready.name] = connect(ours, theirs)
                except InputError as error:
                    problems += [
                        Problem(f"{ready.name}.{p.where}", p.given, p.allowed, p.fix)
                        for p in error.problems
                    ]
        if problems:
            raise InputError(*problems)

    def __call__(
        self,
        response: Responds,
        answer: Answers | None,
        *,
        task_loss: Callable[[Any], Tensor] | None = None,
        progress: float = 0.0,
    ) -> Losses:
        """Compare a student's response with a teacher's answer.

        Args:
            response: What the student said.
            answer: What the teacher said; None if no term asks for a teacher.
            task_loss: The task's own loss of a response, one value a unit, for the term `task`.
            progress: How much of the training lies behind, in [0, 1].

        Raises:
            InputError: What a term needs is absent, or a loss answers in a wrong shape.
        """
        mean = _Mean(response)
        terms: dict[str, TermLoss] = {}
        total: Tensor | None = None
        for ready in self._ready:
            raw = mean(self._value(ready, response, answer, task_loss, progress), ready)
            weight, value = ready.weight(progress), raw.detach()
            # One operation a term: in a small student's step every one counts.
            total = raw * weight if total is None else torch.add(total, raw, alpha=weight)
            terms[ready.name] = TermLoss(value, value * weight)
        return Losses(cast("Tensor", total), terms)  # there is at least one term

    def _value(
        self,
        ready: Ready,
        response: Responds,
        answer: Answers | None,
        task_loss: Callable[[Any], Tensor] | None,
        progress: float,
    ) -> Tensor:
        if ready.loss is None:
            if task_loss is None:
                raise InputError(
                    Problem("task_loss", None, "the task's loss, since a term asks for it")
                )
            return task_loss(response)
        ours, theirs = _student(ready, response), _teacher(ready, response, answer)
        if ready.joined:
            if ready.name not in self.connectors:
                raise InputError(
                    Problem(ready.name, "no connector", "one", "Call objective.connect once first.")
                )
            ours = self.connectors[ready.name](ours)
        return ready.loss(ours, theirs, **ready.arguments(progress))


class _Mean:
    """The weighted mean over a response's units, or over its samples for terms over features."""

    def __init__(self, response: Responds) -> None:
        self._response = response
        weights = response.weights
        # Each unit's share of the mean; a batch without weight has shares of 0, not of 0 / 0.
        self._units = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
        self._samples: dict[int, Tensor] = {}

    def __call__(self, value: Tensor, ready: Ready) -> Tensor:
        """Average a term's values; a scalar is an average already."""
        if value.ndim == 0:
            return value
        shares = self._per_sample(ready) if ready.student_is_tap else self._units
        if value.shape != shares.shape:
            expected = f"one value a unit, {tuple(shares.shape)}"
            raise InputError(Problem(ready.name, tuple(value.shape), expected))
        if value.dtype != shares.dtype:
            return (value * shares).sum()
        return value.dot(shares)

    def _per_sample(self, ready: Ready) -> Tensor:
        samples = self._response.taps[ready.student].shape[0]
        if samples not in self._samples:
            nothing = self._units.new_zeros(samples)
            self._samples[samples] = nothing.index_add(0, self._response.sample_of, self._units)
        return self._samples[samples]


def _student(ready: Ready, response: Responds) -> Tensor:
    from_model = response.taps if ready.student_is_tap else response.outputs
    if ready.student not in from_model:
        raise InputError(
            Problem(
                f"{ready.name}.student", ready.student, f"one of {', '.join(from_model) or 'none'}"
            )
        )
    return from_model[ready.student]


def _teacher(ready: Ready, response: Responds, answer: Answers | None) -> Any:
    if ready.source == "labels":
        return response.labels
    if answer is None:
        raise InputError(
            Problem(ready.name, "no teacher", "a teacher, since this term asks for one")
        )
    if ready.source == "targets":
        return answer.targets
    if ready.source == "logits":
        return answer.targets.logits
    if ready.teacher not in answer.taps:
        raise InputError(
            Problem(
                f"{ready.name}.teacher", ready.teacher, f"one of {', '.join(answer.taps) or 'none'}"
            )
        )
    return answer.taps[ready.teacher]
