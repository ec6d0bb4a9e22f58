"""Law 7: masked elements have no effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from limbeck.core.tensors import Features
from limbeck.objective import Objective
from limbeck.objective.terms import Term
from limbeck.targets import Answer, DenseTargets
from limbeck.tasks import Output, Response
from limbeck.testing.subject import (
    OF_LOGITS,
    Inputs,
    Subject,
    each,
    largest,
    parts,
    unequal,
)

_FACTOR = 1e4  # on the student's values where they are masked


def masked(subject: Subject) -> Iterator[str]:
    """Test law 7: elements of weight 0 and padding tokens have no effect."""
    inputs = subject.draw()
    if subject.kind == "fused":
        yield from _fused(subject, inputs)
        return
    kept = torch.arange(inputs.elements) % 3 != 1
    changed = inputs.but(student=each(lambda tensor: _change(tensor, kept), inputs.student))
    everything = torch.ones_like(kept)

    def average(rows: Tensor, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
        return _averaged(subject, changed.rows(rows), weights)

    yield from _without_effect(average, everything, kept)
    yield from _tokens(subject, inputs)


def _without_effect(
    average: Callable[[Tensor, Tensor], tuple[Tensor, list[Tensor]]],
    everything: Tensor,
    kept: Tensor,
) -> Iterator[str]:
    """Compare a weighted average, and its gradient, with that of the elements of weight 1 alone."""
    total, gradient = average(everything, kept.double())
    expected, expected_gradient = average(kept, kept[kept].double())
    message = "an element of weight 0 changes"
    yield from unequal(total, expected, f"{message} the value")
    others = [part[kept] for part in gradient]
    yield from unequal(others, expected_gradient, f"{message} the gradient of the others")
    if size := largest([part[~kept] for part in gradient]):
        yield f"an element of weight 0 has a gradient of {size:.1e}"
    total, gradient = average(everything, torch.zeros_like(kept).double())
    if total != 0 or largest(gradient) != 0:
        yield f"the loss of a batch of weight 0 is {total:.4g}, not 0"


def _change(tensor: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept.reshape(-1, *[1] * (tensor.ndim - 1)), tensor, tensor * _FACTOR)


def _averaged(subject: Subject, inputs: Inputs, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Compute an objective's total over one term, and its gradient for the student."""
    leaf = each(lambda tensor: tensor.detach().clone().requires_grad_(), inputs.student)
    hard, rows = subject.kind == "hard_label", torch.arange(inputs.elements)
    labels = cast("Tensor", inputs.second) if hard else inputs.labels
    output = Output(parts(leaf)[0], weights=weights, sample_of=rows, labels=labels)
    response = Response({"logits": output}, taps=_layers(leaf), index=rows)
    targets = DenseTargets(parts(inputs.second)[0])
    teacher = Answer({"logits": targets}, taps=_layers(inputs.second))
    sides: dict[str, Any] = {"teacher": "labels"} if hard else {}
    if subject.kind not in OF_LOGITS:
        sides = {"student": _paths(leaf), "teacher": _paths(inputs.second)}
    term = Term(_as_term(subject), connector="none", **sides)
    total = Objective([term])(response, teacher).total
    return total.detach(), list(torch.autograd.grad(total, parts(leaf)))


def _layers(features: Features) -> dict[str, Tensor]:
    return {f"layer{index}": tensor for index, tensor in enumerate(parts(features))}


def _paths(features: Features) -> str | tuple[str, ...]:
    return "layer0" if isinstance(features, Tensor) else tuple(_layers(features))


def _as_term(subject: Subject) -> Callable[..., Tensor]:
    """Bind the loss's other settings, hidden from the objective, which sets labels if required."""

    def loss(student: Features, teacher: Features) -> Tensor:
        return subject(Inputs(student, teacher))

    def labelled(student: Features, teacher: Features, *, labels: Tensor) -> Tensor:
        return subject(Inputs(student, teacher, labels))

    return labelled if subject.has("labels") else loss


def _tokens(subject: Subject, inputs: Inputs) -> Iterator[str]:
    """Test the mask of a loss over tokens, which are the second to last dimension."""
    student = inputs.student
    if not subject.has("mask") or not isinstance(student, Tensor) or student.ndim < 3:
        return
    mask = torch.rand(len(student), student.shape[-2], generator=subject.generator) < 0.6
    mask[:, 0] = True
    rows = mask.reshape(len(mask), *[1] * (student.ndim - 3), -1, 1)
    changed = inputs.but(student=torch.where(rows, student, student * _FACTOR))
    value, expected = subject(changed, mask=mask), subject(inputs, mask=mask)
    yield from unequal(value, expected, "a masked token changes the value")
    [gradient] = subject.gradient(changed, mask=mask)
    if size := largest([gradient.masked_fill(rows, 0)]):
        yield f"a masked token has a gradient of {size:.1e}"
    without_tokens = mask & (torch.arange(len(mask)) > 0).unsqueeze(1)
    if not bool(subject(changed, mask=without_tokens).isfinite().all()):
        yield "the value of a sample without tokens is not finite"


def _fused(subject: Subject, inputs: Inputs) -> Iterator[str]:
    """Test a fused form's own weights."""
    if not subject.has("weights"):
        return
    hidden, teacher = parts(inputs.student)[0], parts(inputs.second)[0]
    kept = torch.arange(inputs.elements) % 3 != 1
    changed, head = _change(hidden, kept), torch.eye(hidden.shape[1]).to(hidden)

    def average(rows: Tensor, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
        leaf = changed[rows].clone().requires_grad_()
        targets, settings = DenseTargets(teacher[rows]), subject.settings(inputs)
        total = subject.loss(leaf, head, targets, weights=weights, **settings)
        return total.detach(), list(torch.autograd.grad(total, leaf))

    yield from _without_effect(average, torch.ones_like(kept), kept)
