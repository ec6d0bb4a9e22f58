"""One batch as input of the terms: outputs of student and teacher, and element weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from torch import Tensor

from limbeck.connectors import ConnectorOutput
from limbeck.core.tensors import Features
from limbeck.errors import InputError, Problem
from limbeck.objective.element_weights import ElementContext, PerElement
from limbeck.objective.resolve import ResolvedTerm
from limbeck.objective.result import StudentOutput, TeacherOutput
from limbeck.taps import is_pattern, select
from limbeck.targets import DenseTargets, Targets

if TYPE_CHECKING:
    from limbeck.objective.terms import Loss

Compared: TypeAlias = Features | Targets
"""One side of a loss: a tensor, the tensors of several layers, or a teacher's targets."""


class TermInputs:
    """The outputs for one batch, and the weights of its means."""

    def __init__(
        self,
        response: StudentOutput,
        answer: TeacherOutput | None,
        class_counts: tuple[int, ...] | None,
    ) -> None:
        self.response, self.answer = response, answer
        self._class_counts = class_counts
        weights = response.weights
        # Each element's share of the mean; a batch without weight has shares of 0, not of 0 / 0.
        self._units = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
        self._samples: dict[int, Tensor] = {}

    def mean(self, value: Tensor, ready: ResolvedTerm) -> Tensor:
        """Average a term's values; a scalar is already an average."""
        if value.ndim == 0:
            return value
        shares = self._shares(ready)
        if value.shape != shares.shape:
            expected = f"one value per element, {tuple(shares.shape)}"
            raise InputError(Problem(ready.name, tuple(value.shape), expected))
        if ready.element_weight is not None:
            shares = shares * self.per_element(ready.element_weight).to(shares.dtype)
        if value.dtype != shares.dtype:
            return (value * shares).sum()
        return value.dot(shares)

    def fused(self, ready: ResolvedTerm, loss: Loss, arguments: Mapping[str, Any]) -> Tensor:
        """Compute a loss over hidden states and a head, which weights elements itself.

        Raises:
            InputError: The task has no hidden states and head.
        """
        hidden = getattr(self.response, "hidden", None)
        head = getattr(self.response, "head", None)
        if hidden is None or head is None:
            allowed = "a task that gives hidden states and a head"
            fix = "Take divergence, on logits."
            raise InputError(Problem(ready.name, "logits only", allowed, fix))
        targets = teacher_of(ready, self.response, self.answer)
        factor = 1.0 if ready.element_weight is None else self.per_element(ready.element_weight)
        labels = self.response.labels if "label_weight" in arguments else None
        return loss(
            hidden,
            head.weight,
            targets,
            bias=head.bias,
            labels=labels,
            weights=self._units * factor,
            reduction="sum",
            **arguments,
        )

    def kept(self, ready: ResolvedTerm) -> Tensor | None:
        """Return the mask of rows with weight, `[rows]`; None if all have."""
        counts = self._shares(ready) != 0
        return None if bool(counts.all()) else counts

    def count(self, ready: ResolvedTerm) -> int:
        """Return the number of rows that a term compares."""
        return len(self._shares(ready))

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that may be an argument of a term, by name."""
        named: dict[str, object] = {
            "labels": self.response.labels,
            "weights": self.response.weights,
        }
        for side, given in (("student", self.response), ("teacher", self.answer)):
            named |= {
                f"{side} {path}": tensor for path, tensor in getattr(given, "taps", {}).items()
            }
        named |= {f"student {name}": tensor for name, tensor in self.response.outputs.items()}
        if self.answer is not None:
            named |= {f"teacher {name}": part for name, part in vars(self.answer.targets).items()}
        return {name: part for name, part in named.items() if isinstance(part, Tensor)}

    def per_element(self, number: PerElement) -> Tensor:
        """Compute a per-element number for this batch."""
        targets = None if self.answer is None else self.answer.targets
        logits = targets.logits if isinstance(targets, DenseTargets) else None
        return number(ElementContext(logits, self.response.labels, self._class_counts))

    def inputs(self, ready: ResolvedTerm) -> dict[str, Tensor]:
        """Return the batch's arguments for the loss or its connector.

        Raises:
            InputError: The batch lacks a required argument of the loss.
        """
        if not (ready.inputs or ready.joined):
            return {}
        given = {
            "labels": self.response.labels,
            # A user's own response may lack these.
            "index": getattr(self.response, "index", None),
            "mask": getattr(self.response, "mask", None),
        }
        found = {name: tensor for name, tensor in given.items() if tensor is not None}
        missing = [name for name in ready.needed if name not in found]
        if missing:
            allowed = f"{' and '.join(missing)}, which the loss requires"
            raise InputError(Problem(ready.name, f"a response without {missing[0]}", allowed))
        return found

    def _shares(self, ready: ResolvedTerm) -> Tensor:
        return self._per_sample(ready) if ready.student_is_tap else self._units

    def _per_sample(self, ready: ResolvedTerm) -> Tensor:
        [first, *_] = _named(ready.student[:1], self.response.taps)
        samples = self.response.taps[first].shape[0]
        if samples not in self._samples:
            nothing = self._units.new_zeros(samples)
            self._samples[samples] = nothing.index_add(0, self.response.sample_of, self._units)
        return self._samples[samples]


def tempered(
    loss: Loss,
    ready: ResolvedTerm,
    joined: ConnectorOutput,
    temperature: Tensor,
    arguments: Mapping[str, Any],
) -> Tensor:
    """Compute a loss with a temperature per element: divided logits at T = 1, times T²."""
    column = temperature.unsqueeze(-1)
    teacher = joined.teacher
    if isinstance(teacher, DenseTargets):
        teacher = DenseTargets(teacher.logits / column)
    elif isinstance(teacher, Tensor):
        teacher = teacher / column
    else:
        allowed = "all of the teacher's logits, for a temperature that differs per element"
        raise InputError(Problem(ready.name, type(teacher).__name__, allowed))
    return (
        loss(cast("Tensor", joined.student) / column, teacher, **arguments) * temperature.square()
    )


def rows(given: Compared, kept: Tensor) -> Compared:
    """Select rows of a tensor, of several tensors, or of dense targets."""
    if isinstance(given, Tensor):
        return given[kept]
    if isinstance(given, DenseTargets):
        return DenseTargets(given.logits[kept])
    if isinstance(given, tuple):
        return tuple(one[kept] for one in given)
    raise TypeError(f"rows of {type(given).__name__}")


def nothing(student: Features) -> Tensor:
    """Return 0, with a gradient of 0."""
    tensors = (student,) if isinstance(student, Tensor) else student
    nothing: Tensor = sum((one[:0].sum() for one in tensors), start=tensors[0].new_zeros(()))
    return nothing


def student_of(ready: ResolvedTerm, response: StudentOutput) -> Features:
    """Return the student's tensors for a term."""
    from_model = response.taps if ready.student_is_tap else response.outputs
    return _taken(ready, "student", ready.student, from_model)


def teacher_of(
    ready: ResolvedTerm, response: StudentOutput, answer: TeacherOutput | None
) -> Compared:
    """Return the teacher's tensors for a term, or the labels."""
    if ready.source == "labels":
        return response.labels
    if answer is None:
        raise InputError(Problem(ready.name, "no teacher", "a teacher, which this term requires"))
    if ready.source in ("targets", "head"):
        return answer.targets
    if ready.source == "logits":
        if isinstance(answer.targets, DenseTargets):
            return answer.targets.logits
        fix = "Compare with divergence, which takes any form of answer."
        given = type(answer.targets).__name__
        raise InputError(Problem(ready.name, given, "all of the teacher's logits", fix))
    return _taken(ready, "teacher", ready.teacher, answer.taps)


def _taken(
    ready: ResolvedTerm, side: str, names: tuple[str, ...], given: Mapping[str, Tensor]
) -> Features:
    found = _named(names, given) if ready.multi_layer else list(names)
    for name in found:
        if name not in given:
            allowed = f"one of {', '.join(given) or 'none'}"
            raise InputError(Problem(f"{ready.name}.{side}", name, allowed))
    return tuple(given[name] for name in found) if ready.multi_layer else given[found[0]]


def _named(names: tuple[str, ...], given: Mapping[str, Tensor]) -> list[str]:
    """Expand patterns; one without a match is kept, for the error message."""
    return [
        path
        for name in names
        for path in ((select(name, given) if is_pattern(name) else []) or [name])
    ]
