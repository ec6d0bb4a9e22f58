"""Law 15: function transforms and higher derivatives equal plain torch, or raise."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from limbeck.core.tensors import Features
from limbeck.errors import LimbeckError
from limbeck.targets import (
    CategoricalTargets,
    DenseTargets,
    HeadTargets,
    SampledTargets,
    TopKTargets,
)
from limbeck.testing.subject import Inputs, Subject, each, largest, like, parts

_EXACT, _NUMERIC = 1e-8, 1e-4  # tolerances: of the same operations, of finite differences
_ROUNDED = 1e-3  # tolerance of the same operations in lower precision
_SMALLEST = 1e-3  # below this a result counts as 0, to within rounding
_STEP = 1e-5
_COPIES = 3  # the number of input sets for `vmap`
# Exceptions that count as a refusal; any other one is an error of the loss.
REFUSALS = (LimbeckError, RuntimeError, NotImplementedError)
Tensors: TypeAlias = tuple[Tensor, ...]
Result: TypeAlias = Tensor | Tensors


class Attempt(NamedTuple):
    """The result of one transform of a loss.

    Attributes:
        name: The transform.
        difference: The relative difference to plain torch; None if the loss raised an error.
        allowed: The tolerance of the difference.
        refusal: The exception that the loss raised.
    """

    name: str
    difference: float | None
    allowed: float
    refusal: Exception | None = None


def transforms(subject: Subject) -> Iterator[str]:
    """Test law 15: `torch.func` and double backward equal plain torch, or raise."""
    for attempt in attempts(subject):
        if attempt.difference is not None and not attempt.difference < attempt.allowed:
            yield (
                f"{attempt.name} differs from plain torch by {attempt.difference:.1e} of its "
                "size; make it agree, or raise an error"
            )


def attempts(subject: Subject) -> Iterator[Attempt]:
    """Yield the result of every transform of a loss, for each accepted type of targets."""
    inputs = subject.draw()
    # Lower precision is reported by law 0, not here.
    exact = _EXACT if subject(inputs).dtype == torch.float64 else _ROUNDED
    for form, given in _forms(subject, inputs).items():

        def loss(student: Tensors, given: Inputs = given) -> Tensor:
            return subject(given.but(student=like(given.student, student)))

        for case, compute, expect, allowed in _cases(loss, given, subject.generator):
            yield _attempt(case + form, compute, expect, max(allowed, exact))
    yield from _vmap(subject, inputs, exact)
    yield from _teacher_jvp(subject, inputs)


def _attempt(
    name: str, compute: Callable[[], Result], expect: Callable[[], Result], allowed: float
) -> Attempt:
    expected = parts(expect())
    try:
        pairs = list(zip(parts(compute()), expected, strict=True))
    except REFUSALS as error:
        return Attempt(name, None, allowed, error)
    if any(actual.shape != reference.shape for actual, reference in pairs):
        return Attempt(name, float("inf"), allowed)
    difference = largest([actual.double() - reference.double() for actual, reference in pairs])
    difference = difference / max(largest(expected), _SMALLEST)
    return Attempt(name, difference if difference == difference else float("inf"), allowed)


def _forms(subject: Subject, inputs: Inputs) -> dict[str, Inputs]:
    if not subject.takes_targets or subject.kind == "fused":
        return {"": inputs}
    logits = parts(inputs.second)[0]
    degree = subject.settings(inputs).get("temperature", 1.0)
    forms: dict[str, CategoricalTargets] = {
        "TopKTargets": TopKTargets.of(logits, 2),
        "SampledTargets": SampledTargets.draw(
            logits, draws=3, temperature=degree, generator=subject.generator
        ),
        "HeadTargets": HeadTargets(logits, torch.eye(logits.shape[1]).to(logits)),
    }
    return {"": inputs} | {f" of {name}": inputs.but(targets=form) for name, form in forms.items()}


Case: TypeAlias = tuple[str, Callable[[], Result], Callable[[], Result], float]


def _cases(
    loss: Callable[[Tensors], Tensor], inputs: Inputs, generator: torch.Generator
) -> Iterator[Case]:
    """Yield each transform for the student: its name, result, expected result and tolerance."""
    at = parts(inputs.student)
    along = tuple(torch.randn(part.shape, generator=generator).to(part) for part in at)

    def total(student: Tensors) -> Tensor:
        return loss(student).sum()

    def gradient(student: Tensors) -> Tensors:
        leaves = tuple(part.detach().clone().requires_grad_() for part in student)
        return torch.autograd.grad(total(leaves), leaves)

    def directional(derivatives: Sequence[Tensor]) -> Tensor:
        """Multiply derivatives by the direction."""
        pairs = zip(derivatives, along, strict=True)
        products = [(one * v).flatten(one.ndim - v.ndim).sum(-1) for one, v in pairs]
        return torch.stack(products).sum(0)

    def jvp() -> Tensor:
        return directional(jacobian())

    def jacobian() -> Tensors:
        return parts(torch.autograd.functional.jacobian(lambda *student: loss(student), at))

    def finite_differences() -> Tensors:
        """Compute the second derivative along the direction from the plain gradient."""
        up, down = (
            gradient(tuple(part + step * v for part, v in zip(at, along, strict=True)))
            for step in (_STEP, -_STEP)
        )
        return tuple((a - b) / (2 * _STEP) for a, b in zip(up, down, strict=True))

    def double_backward() -> Tensors:
        return torch.autograd.functional.vhp(lambda *student: total(student), at, along)[1]

    def hessian() -> Tensors:
        return tuple(directional(row) for row in torch.func.hessian(total)(at))

    def without_graph(mode: Callable[[], AbstractContextManager[object]]) -> Tensor:
        with mode():
            return loss(tuple(map(torch.clone, at))).clone()

    def plain() -> Tensor:
        return loss(at).detach()

    func = torch.func
    yield "torch.func.grad", lambda: func.grad(total)(at), lambda: gradient(at), _EXACT
    yield "torch.func.jacrev", lambda: func.jacrev(loss)(at), jacobian, _EXACT
    yield "torch.func.jacfwd", lambda: func.jacfwd(loss)(at), jacobian, _EXACT
    yield "torch.func.jvp", lambda: func.jvp(loss, (at,), (along,))[1], jvp, _EXACT
    if plain().dtype == torch.float64:  # otherwise differences of gradients are rounding errors
        yield "a gradient of the gradient", double_backward, finite_differences, _NUMERIC
        yield "torch.func.hessian", hessian, finite_differences, _NUMERIC
    for mode in (torch.inference_mode, torch.no_grad):
        yield f"torch.{mode.__name__}", partial(without_graph, mode), plain, _EXACT


def _vmap(subject: Subject, inputs: Inputs, exact: float) -> Iterator[Attempt]:
    """Test `vmap` over several sets of inputs, of the student's side and of both."""
    factors = torch.linspace(0.5, 1.5, _COPIES, dtype=torch.float64)

    def copied(part: Tensor) -> Tensor:
        if not part.is_floating_point():
            return torch.stack([part.roll(shift, 0) for shift in range(_COPIES)])
        return torch.stack([factor * part for factor in factors])

    copies = inputs.map(copied)

    def loss(student: Features, second: Features) -> Tensor:
        return subject(inputs.but(student=student, second=second))

    def total(student: Features, second: Features) -> Tensor:
        return loss(student, second).sum()

    def one_by_one(*, both: bool, gradients: bool) -> Tensors:
        results = []
        for index in range(_COPIES):
            given = copies.map(operator.itemgetter(index))
            given = given if both else given.but(second=inputs.second)
            results.append(subject.gradient(given) if gradients else [subject(given)])
        return tuple(torch.stack(column) for column in zip(*results, strict=True))

    for side, both in (("the student", False), ("both sides", True)):
        given = (copies.student, copies.second if both else inputs.second)
        dims = (0, 0 if both else None)
        for name, function in (("vmap", loss), ("vmap of grad", torch.func.grad(total))):
            yield _attempt(
                f"torch.func.{name} over {side}",
                partial(torch.func.vmap(function, dims), *given),
                partial(one_by_one, both=both, gradients=function is not loss),
                exact,
            )


def _teacher_jvp(subject: Subject, inputs: Inputs) -> Iterator[Attempt]:
    """Test forward mode for the teacher's side, which has no derivative."""
    if subject.kind == "hard_label":
        return
    value = subject(inputs)

    def loss(second: Features) -> Tensor:
        if subject.takes_targets:
            return subject(inputs.but(targets=DenseTargets(parts(second)[0])))
        return subject(inputs.but(second=second))

    yield _attempt(
        "torch.func.jvp for the teacher's side",
        lambda: torch.func.jvp(loss, (inputs.second,), (each(torch.ones_like, inputs.second),))[1],
        lambda: torch.zeros_like(value),
        _EXACT,
    )
