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
from limbeck.taps import is_pattern, select
from limbeck.targets import Answer, BernoulliTargets, DenseTargets, Targets, ValueTargets
from limbeck.tasks import Output, Response, labels_of

if TYPE_CHECKING:
    from limbeck.objective.terms import Loss

Compared: TypeAlias = Features | Targets
"""One side of a loss: a tensor, the tensors of several layers, or a teacher's targets."""


class TermInputs:
    """The outputs for one batch, and the weights of its means.

    Args:
        response: The student's response.
        answer: The teacher's answer; None if no term requires one.
        class_counts: The number of training samples per class; None if unknown.
        total_weights: The divisors of the means, by output; None for this batch's own.
    """

    def __init__(
        self,
        response: Response,
        answer: Answer | None,
        class_counts: tuple[int, ...] | None = None,
        total_weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.response, self.answer = response, answer
        self._class_counts, self._total_weights = class_counts, total_weights
        self._shares: dict[tuple[str, int | None], Tensor] = {}

    def mean(self, value: Tensor, ready: ResolvedTerm) -> Tensor:
        """Average a term's values; a scalar is already an average."""
        if value.ndim == 0:
            if self._total_weights is None:
                return value
            return value * self.part(ready.output, labels=ready.of_labels)
        return self._mean(value, self._rows(ready), ready)

    def task_mean(self, values: Mapping[str, Tensor], ready: ResolvedTerm) -> Tensor:
        """Average the task's loss over each output's elements, and sum over outputs."""
        if ready.output is not None:
            values = {ready.output: values[ready.output]}
        means = [
            value * self.part(name, labels=True)
            if value.ndim == 0
            else self._mean(value, self.share(name, labels=True), ready, name)
            for name, value in values.items()
        ]
        return means[0] if len(means) == 1 else torch.stack(means).sum()

    def _mean(
        self, value: Tensor, shares: Tensor, ready: ResolvedTerm, output: str | None = None
    ) -> Tensor:
        if value.shape != shares.shape:
            expected = f"one value per element, {tuple(shares.shape)}"
            raise InputError(Problem(ready.name, tuple(value.shape), expected))
        of_term = output is None or output == self.response.name_of(ready.output)
        if ready.element_weight is not None and of_term:
            factor = self.per_element(ready.element_weight, ready.output)
            shares = shares * factor.to(shares.dtype)
        if value.dtype != shares.dtype:
            return (value * shares).sum()
        return value.dot(shares)

    def share(self, output: str | None, *, labels: bool = False) -> Tensor:
        """Compute each element's share of an output's mean, `[elements]`.

        Without any weight the shares are 0, not 0 / 0.

        Args:
            output: The output; None is the primary one.
            labels: Whether the mean is over elements with a label only.
        """
        name = self.response.name_of(output)
        found = self.response.outputs[name]
        labelled = found.labelled if labels else None
        key = name if labelled is None else labels_of(name)
        if (key, None) not in self._shares:
            weights = found.weights if labelled is None else found.weights * labelled
            total = weights.sum() if self._total_weights is None else self._total_weights[key]
            least = torch.finfo(weights.dtype).tiny
            self._shares[key, None] = weights / total.to(weights.dtype).clamp_min(least)
        return self._shares[key, None]

    def part(self, output: str | None, *, labels: bool = False) -> Tensor:
        """Compute the part of an output's mean that this batch contributes."""
        return self.share(output, labels=labels).sum()

    def output(self, name: str | None) -> Output:
        """Return one of the student's outputs; None is the primary one."""
        return self.response.outputs[self.response.name_of(name)]

    def fused(self, ready: ResolvedTerm, loss: Loss, arguments: Mapping[str, Any]) -> Tensor:
        """Compute a loss over hidden states and a head, which weights elements itself.

        Raises:
            InputError: The output has no hidden states and head.
        """
        output = self.output(ready.output)
        if output.hidden is None or output.head is None:
            allowed = "a task that gives hidden states and a head"
            fix = "Take divergence, on logits."
            raise InputError(Problem(ready.name, "logits only", allowed, fix))
        targets = teacher_of(ready, self.response, self.answer)
        shares = self.share(ready.output)
        if ready.element_weight is not None:
            shares = shares * self.per_element(ready.element_weight, ready.output)
        return loss(
            output.hidden,
            output.head.weight,
            targets,
            bias=output.head.bias,
            softcap=output.softcap,
            labels=output.labels if "label_weight" in arguments else None,
            weights=shares,
            reduction="sum",
            **arguments,
        )

    def kept(self, ready: ResolvedTerm) -> Tensor | None:
        """Return the mask of rows with weight, `[rows]`; None if all have."""
        counts = self._rows(ready) != 0
        return None if bool(counts.all()) else counts

    def count(self, ready: ResolvedTerm) -> int:
        """Return the number of rows that a term compares."""
        return len(self._rows(ready))

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that may be an argument of a term, by name."""
        named: dict[str, object] = {}
        for name, output in self.response.outputs.items():
            parts = {"student": output.values, "labels": output.labels, "weights": output.weights}
            named |= {f"{part} {name}": tensor for part, tensor in parts.items()}
        for side, given in (("student", self.response), ("teacher", self.answer)):
            taps = {} if given is None else given.taps
            named |= {f"{side} {path}": tensor for path, tensor in taps.items()}
        for name, targets in ({} if self.answer is None else self.answer.targets).items():
            named |= {f"teacher {name} {part}": one for part, one in vars(targets).items()}
        return {name: part for name, part in named.items() if isinstance(part, Tensor)}

    def per_element(self, number: PerElement, output: str | None) -> Tensor:
        """Compute a per-element number of an output for this batch."""
        targets = (
            None if self.answer is None else self.answer.targets.get(self.response.name_of(output))
        )
        logits = targets.logits if isinstance(targets, DenseTargets) else None
        return number(ElementContext(logits, self.output(output).labels, self._class_counts))

    def inputs(self, ready: ResolvedTerm) -> dict[str, Tensor]:
        """Return the batch's arguments for the loss or its connector.

        Raises:
            InputError: The batch lacks a required argument of the loss.
        """
        if not (ready.inputs or ready.joined):
            return {}
        given = {
            "labels": self.output(ready.output).labels,
            "index": self.response.index,
            "mask": self.response.mask,
        }
        found = {name: tensor for name, tensor in given.items() if tensor is not None}
        missing = [name for name in ready.needed if name not in found]
        if missing:
            allowed = f"{' and '.join(missing)}, which the loss requires"
            raise InputError(Problem(ready.name, f"a response without {missing[0]}", allowed))
        return found

    def _rows(self, ready: ResolvedTerm) -> Tensor:
        """Return the share of each row that a term compares: an element, or a feature's sample."""
        if not ready.student:
            return self.share(ready.output, labels=ready.of_labels)
        [first, *_] = _named(ready.student[:1], self.response.taps)
        samples = self.response.taps[first].shape[0]
        name = self.response.name_of(ready.output)
        if (name, samples) not in self._shares:
            shares, output = self.share(name), self.output(name)
            per_sample = shares.new_zeros(samples).index_add(0, output.sample_of, shares)
            self._shares[name, samples] = per_sample
        return self._shares[name, samples]


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


def student_of(ready: ResolvedTerm, response: Response) -> Features:
    """Return the student's tensors for a term."""
    if ready.student:
        return _taken(ready, "student", ready.student, response.taps)
    values = response.outputs[response.name_of(ready.output)].values
    if values is None:
        fix = "Use fused_divergence, which computes logits a few rows at a time."
        given = "hidden states and a head"
        raise InputError(Problem(f"{ready.name}.output", given, "an output with values", fix))
    return (values,) if ready.multi_layer else values


def teacher_of(ready: ResolvedTerm, response: Response, answer: Answer | None) -> Compared:
    """Return the teacher's tensors for a term, or the labels."""
    if ready.source == "labels":
        labels = response.outputs[response.name_of(ready.output)].labels
        if labels is None:
            allowed = "labels, which the loss requires"
            raise InputError(Problem(ready.name, "a batch without labels", allowed))
        return labels
    if answer is None:
        raise InputError(Problem(ready.name, "no teacher", "a teacher, which this term requires"))
    if ready.source == "tap":
        return _taken(ready, "teacher", ready.teacher, answer.taps)
    output = response.name_of(ready.output)
    if output not in answer.targets:
        allowed = f"one of the teacher's outputs: {', '.join(answer.targets)}"
        raise InputError(Problem(f"{ready.name}.output", output, allowed))
    targets = answer.targets[output]
    if ready.source in ("targets", "head"):
        return targets
    if isinstance(targets, DenseTargets | BernoulliTargets | ValueTargets):
        return (targets.values,) if ready.multi_layer else targets.values
    fix = "Compare with divergence, which takes any form of answer."
    given = type(targets).__name__
    raise InputError(Problem(ready.name, given, "all of the teacher's logits", fix))


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
