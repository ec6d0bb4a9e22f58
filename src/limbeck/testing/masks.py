"""Law 7: masked elements have no effect."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from limbeck.objective import Objective
from limbeck.objective.terms import Term
from limbeck.targets import DenseTargets
from limbeck.testing.subject import (
    OF_LOGITS,
    Features,
    Inputs,
    Subject,
    apart,
    each,
    farthest,
    largest,
    parts,
)

_EXACT = 1e-9
_SPOILT = 1e4  # the factor on the student's values where they are masked


def masked(subject: Subject) -> Iterator[str]:
    """Test law 7: elements of weight 0 and padding tokens have no effect."""
    inputs = subject.draw()
    if subject.kind == "fused":
        yield from _fused(subject, inputs)
        return
    kept = torch.arange(inputs.units) % 3 != 1
    spoilt = inputs.but(student=each(lambda tensor: _spoil(tensor, kept), inputs.student))
    total, slopes = _averaged(subject, spoilt, kept)
    expected, left = _averaged(subject, inputs.rows(kept), kept[kept])
    if not (off := apart(total, expected)) < _EXACT:
        yield f"a unit of weight 0 changes the value: {total:.4g}, and without it {expected:.4g}"
    if not (off := farthest([slope[kept] for slope in slopes], left)) < _EXACT:
        yield f"a unit of weight 0 changes the others' gradient by {off:.1e} of its size"
    if reached := largest([slope[~kept] for slope in slopes]):
        yield f"a unit of weight 0 gets a gradient of {reached:.1e}"
    total, slopes = _averaged(subject, spoilt, torch.zeros_like(kept))
    if total != 0 or largest(slopes) != 0:
        yield f"a batch without weight gives {total:.4g}, and not 0"
    yield from _tokens(subject, inputs)


def _spoil(tensor: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept.reshape(-1, *[1] * (tensor.ndim - 1)), tensor, tensor * _SPOILT)


def _averaged(subject: Subject, inputs: Inputs, kept: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Compute an objective's total over one term, and its gradient for the student."""
    leaf = each(lambda tensor: tensor.detach().clone().requires_grad_(), inputs.student)
    hard, rows = subject.kind == "hard_label", torch.arange(inputs.units)
    response = SimpleNamespace(
        outputs={"logits": parts(leaf)[0]},
        taps=_layers(leaf),
        labels=inputs.second if hard else inputs.labels,
        weights=kept.double(),
        sample_of=rows,
        index=rows,
    )
    answer = SimpleNamespace(
        targets=DenseTargets(parts(inputs.second)[0]), taps=_layers(inputs.second)
    )
    sides: dict[str, Any] = {"teacher": "labels"} if hard else {}
    if subject.kind not in OF_LOGITS:
        sides = {"student": _paths(leaf), "teacher": _paths(inputs.second)}
    term = Term(_as_term(subject), connector="none", **sides)
    total = Objective([term])(response, answer).total
    return total.detach(), list(torch.autograd.grad(total, parts(leaf)))


def _layers(features: Features) -> dict[str, Tensor]:
    return {f"layer{place}": tensor for place, tensor in enumerate(parts(features))}


def _paths(features: Features) -> str | tuple[str, ...]:
    return "layer0" if isinstance(features, Tensor) else tuple(_layers(features))


def _as_term(subject: Subject) -> Any:
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
    spoilt = inputs.but(student=torch.where(rows, student, student * _SPOILT))
    if not (off := apart(subject(spoilt, mask=mask), subject(inputs, mask=mask))) < _EXACT:
        yield f"a token that is masked changes the value by {off:.1e} of its size"
    [slope] = subject.gradient(spoilt, mask=mask)
    if reached := largest([slope.masked_fill(rows, 0)]):
        yield f"a token that is masked gets a gradient of {reached:.1e}"
    nothing = mask & (torch.arange(len(mask)) > 0).unsqueeze(1)
    if not bool(subject(spoilt, mask=nothing).isfinite().all()):
        yield "a sample without tokens does not give a finite value"


def _fused(subject: Subject, inputs: Inputs) -> Iterator[str]:
    """Test a fused form's own weights."""
    if not subject.has("weights"):
        return
    hidden, teacher = parts(inputs.student)[0], parts(inputs.second)[0]
    kept = torch.arange(inputs.units) % 3 != 1
    settings = subject.settings(inputs)

    def call(which: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        leaf = _spoil(hidden, kept)[which].clone().requires_grad_()
        head = torch.eye(hidden.shape[1]).to(hidden)
        targets = DenseTargets(teacher[which])
        total = subject.loss(leaf, head, targets, weights=weights, **settings)
        [slope] = torch.autograd.grad(total, leaf)
        return total.detach(), slope

    everything = torch.ones_like(kept)
    total, slope = call(everything, kept.double())
    expected, left = call(kept, kept[kept].double())
    if not apart(total, expected) < _EXACT:
        yield f"a unit of weight 0 changes the value: {total:.4g}, and without it {expected:.4g}"
    if not (off := apart(slope[kept], left)) < _EXACT:
        yield f"a unit of weight 0 changes the others' gradient by {off:.1e} of its size"
    if reached := largest([slope[~kept]]):
        yield f"a unit of weight 0 gets a gradient of {reached:.1e}"
    total, slope = call(everything, torch.zeros_like(hidden[:, 0]))
    if total != 0 or largest([slope]) != 0:
        yield f"a batch without weight gives {total:.4g}, and not 0"
