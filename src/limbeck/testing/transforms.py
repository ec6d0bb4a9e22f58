"""Law 15: function transforms and higher derivatives equal plain torch, or raise."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.targets import DenseTargets, HeadTargets, SampledTargets, Targets, TopKTargets
from limbeck.testing.subject import Features, Inputs, Subject, each, largest, parts

_EXACT, _NUMERIC = (
    1e-8,
    1e-4,
)  # of the same operations; of a second derivative by finite differences
_ROUNDED = 1e-3  # of the same operations in lower precision
_STEP = 1e-5
_COPIES = 3  # the number of input sets for `vmap`
# Exceptions that count as a refusal; any other one is an error of the loss.
REFUSALS = (LimbeckError, RuntimeError, NotImplementedError)
Loss: TypeAlias = Callable[[Features], Tensor]


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

        def loss(student: Features, given: Inputs = given) -> Tensor:
            return subject(given.but(student=student))

        for case, compute, expect, allowed in _cases(loss, given.student, subject.generator):
            yield _attempt(case + form, compute, expect, max(allowed, exact))
    yield from _over_copies(subject, inputs, exact)
    yield from _of_teacher(subject, inputs)


def _attempt(
    name: str, compute: Callable[[], Any], expect: Callable[[], Any], allowed: float
) -> Attempt:
    expected = expect()
    try:
        found = compute()
    except REFUSALS as error:
        return Attempt(name, None, allowed, error)
    return Attempt(name, _apart(found, expected), allowed)


def _apart(found: Any, expected: Any) -> float:
    """Return the largest difference of tensors, relative to the largest value of all of them."""
    pairs = list(zip(parts(found), parts(expected), strict=True))
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        return float("inf")
    difference = largest([ours.double() - theirs.double() for ours, theirs in pairs])
    size = max(largest([theirs for _, theirs in pairs]), _SMALLEST)
    return difference / size if difference == difference else float("inf")


_SMALLEST = 1e-3  # below this a result counts as 0, to within rounding


def _forms(subject: Subject, inputs: Inputs) -> dict[str, Inputs]:
    """Return the inputs, with each accepted type of targets."""
    found = {"": inputs}
    if subject.takes_targets and subject.kind != "fused":
        logits = parts(inputs.second)[0]
        degree = subject.settings(inputs).get("temperature", 1.0)
        drawn = {"draws": 3, "temperature": degree, "generator": subject.generator}
        forms: dict[str, Targets] = {
            "TopKTargets": TopKTargets.of(logits, 2),
            "SampledTargets": SampledTargets.draw(logits, **drawn),
            "HeadTargets": HeadTargets(logits, torch.eye(logits.shape[1]).to(logits)),
        }
        found |= {f" of {name}": inputs.but(targets=form) for name, form in forms.items()}
    return found


Case: TypeAlias = tuple[str, Callable[[], Any], Callable[[], Any], float]


def _cases(loss: Loss, at: Features, generator: torch.Generator) -> Iterator[Case]:
    """Yield each transform for the student: its name, result, expected result and tolerance."""
    along = each(lambda part: torch.randn(part.shape, generator=generator).to(part), at)

    def total(student: Features) -> Tensor:
        return loss(student).sum()

    def gradient(student: Features) -> Features:
        leaf = each(lambda part: part.detach().clone().requires_grad_(), student)
        found = torch.autograd.grad(total(leaf), parts(leaf))
        return found[0] if isinstance(student, Tensor) else found

    def jacobian() -> Features:
        """Compute the derivative of every value separately, in plain torch."""
        leaf = each(lambda part: part.detach().clone().requires_grad_(), at)
        value = loss(leaf)
        rows = [
            torch.autograd.grad(one, parts(leaf), retain_graph=True) for one in value.reshape(-1)
        ]
        found = tuple(torch.stack(column) for column in zip(*rows, strict=True))
        found = tuple(
            one.reshape(*value.shape, *part.shape)
            for one, part in zip(found, parts(at), strict=True)
        )
        return found[0] if isinstance(at, Tensor) else found

    def slope() -> Tensor:
        """Multiply the Jacobian by the direction."""
        pairs = zip(parts(jacobian()), parts(along), strict=True)
        sums = [(one * v).flatten(one.ndim - v.ndim).sum(-1) for one, v in pairs]
        return torch.stack(sums).sum(0)

    def curvature() -> Features:
        """Compute finite differences of the plain gradient along the direction."""
        up, down = (_moved(at, along, sign * _STEP) for sign in (1, -1))
        pairs = zip(parts(gradient(up)), parts(gradient(down)), strict=True)
        found = tuple((one - other) / (2 * _STEP) for one, other in pairs)
        return found[0] if isinstance(at, Tensor) else found

    def twice() -> Features:
        leaf = each(lambda part: part.detach().clone().requires_grad_(), at)
        first = torch.autograd.grad(total(leaf), parts(leaf), create_graph=True)
        product = sum((one * v).sum() for one, v in zip(first, parts(along), strict=True))
        if not cast("Tensor", product).requires_grad:  # for a loss that is linear in its inputs
            return each(torch.zeros_like, at)
        second = torch.autograd.grad(
            cast("Tensor", product), parts(leaf), materialize_grads=True, allow_unused=True
        )
        return second[0] if isinstance(at, Tensor) else second

    def hessian() -> Features:
        """Multiply the Hessian by the direction."""
        rows = parts_of_rows(torch.func.hessian(total)(at))
        found = tuple(
            torch.stack(
                [
                    (one * v).flatten(one.ndim - v.ndim).sum(-1)
                    for one, v in zip(row, parts(along), strict=True)
                ]
            ).sum(0)
            for row in rows
        )
        return found[0] if isinstance(at, Tensor) else found

    def parts_of_rows(found: Any) -> list[tuple[Tensor, ...]]:
        return [parts(found)] if isinstance(found, Tensor) else [parts(row) for row in found]

    def without_graph(mode: Callable[[], Any]) -> Callable[[], Tensor]:
        def value() -> Tensor:
            with mode():
                return loss(each(torch.clone, at)).clone()

        return value

    def plain() -> Tensor:
        return loss(at).detach()

    func = torch.func
    yield "torch.func.grad", lambda: func.grad(total)(at), lambda: gradient(at), _EXACT
    yield "torch.func.jacrev", lambda: func.jacrev(loss)(at), jacobian, _EXACT
    yield "torch.func.jacfwd", lambda: func.jacfwd(loss)(at), jacobian, _EXACT
    yield "torch.func.jvp", lambda: func.jvp(loss, (at,), (along,))[1], slope, _EXACT
    if plain().dtype == torch.float64:  # otherwise differences of gradients are rounding errors
        yield "a gradient of the gradient", twice, curvature, _NUMERIC
        yield "torch.func.hessian", hessian, curvature, _NUMERIC
    yield "torch.inference_mode", without_graph(torch.inference_mode), plain, _EXACT
    yield "torch.no_grad", without_graph(torch.no_grad), plain, _EXACT


def _moved(at: Features, along: Features, step: float) -> Features:
    moved = tuple(a + step * v for a, v in zip(parts(at), parts(along), strict=True))
    return moved[0] if isinstance(at, Tensor) else moved


def _over_copies(subject: Subject, inputs: Inputs, exact: float) -> Iterator[Attempt]:
    """Test `vmap` over several sets of inputs, of the student's side and of both."""
    factors = torch.linspace(0.5, 1.5, _COPIES, dtype=torch.float64)

    def copied(part: Tensor) -> Tensor:
        if not part.is_floating_point():
            return torch.stack([part.roll(shift, 0) for shift in range(_COPIES)])
        return torch.stack([factor * part for factor in factors])

    students, seconds = each(copied, inputs.student), each(copied, inputs.second)

    def loss(student: Features, second: Features) -> Tensor:
        return subject(inputs.but(student=student, second=second))

    def total(student: Features, second: Features) -> Tensor:
        return loss(student, second).sum()

    def one_by_one(of_second: bool, gradients: bool) -> Callable[[], Features]:
        def expected() -> Features:
            found = []
            for place in range(_COPIES):
                student = each(operator.itemgetter(place), students)
                second = each(operator.itemgetter(place), seconds)
                given = inputs.but(student=student, second=second if of_second else inputs.second)
                found.append(tuple(subject.gradient(given)) if gradients else (subject(given),))
            stacked = tuple(torch.stack(column) for column in zip(*found, strict=True))
            return stacked if gradients and not isinstance(inputs.student, Tensor) else stacked[0]

        return expected

    vmap, grad = torch.func.vmap, torch.func.grad
    for side, dims, second in (
        ("the student", (0, None), inputs.second),
        ("both sides", (0, 0), seconds),
    ):
        both = dims == (0, 0)
        yield _attempt(
            f"torch.func.vmap over {side}",
            partial(vmap(loss, dims), students, second),
            one_by_one(both, gradients=False),
            exact,
        )
        yield _attempt(
            f"torch.func.vmap of grad over {side}",
            partial(vmap(grad(total), dims), students, second),
            one_by_one(both, gradients=True),
            exact,
        )


def _of_teacher(subject: Subject, inputs: Inputs) -> Iterator[Attempt]:
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
