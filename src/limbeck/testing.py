"""Hold a loss to the laws: limbeck's own, or one that you wrote.

The laws are numbered as in the design; law 0 is the contract of shapes and types. Laws 10 and 11
(fused and sparse forms) and 13 (the ends of `jsd`) are about one function each and are tested
beside it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from limbeck.objective import Objective
from limbeck.targets import DenseTargets
from limbeck.terms import Term

Kind: TypeAlias = Literal["divergence", "response", "feature", "hard_label"]
Reference: TypeAlias = Callable[..., Any]

_UNITS, _CLASSES = 6, 5
_FLAT = 4.0  # how far gradients at temperatures of 1 to 16 may lie apart


class BrokenLawError(AssertionError):
    """A law that does not hold, with its number.

    Attributes:
        law: The number.
    """

    def __init__(self, law: int, what: str) -> None:
        self.law = law
        super().__init__(f"law {law}: {what}")


def check_loss(
    loss: Callable[..., Tensor],
    *,
    kind: Kind,
    reference: Reference | None = None,
    without: Iterable[int] = (),
    seed: int = 0,
) -> list[int]:
    """Hold a loss to every law that applies to its kind.

    Args:
        loss: A function (student, second, *, temperature if it has one); bind what else it needs
            with `functools.partial`. A second parameter called `targets` is given `DenseTargets`.
        kind: What the loss compares: `divergence` and `response` take logits `[units, classes]`
            twice, `feature` takes features `[samples, ...]` twice, `hard_label` takes logits and
            labels `[units]`.
        reference: The same in numpy and float64, written from the formula, for law 4. Without it
            law 4 holds the gradient to differences of the loss's own values.
        without: Laws that are known not to apply.
        seed: Decides the inputs.

    Returns:
        The numbers of the laws that were tried, all of which hold.

    Raises:
        BrokenLawError: The first law that does not hold.

    Example:
        >>> from limbeck.losses import logit_mse
        >>> check_loss(logit_mse, kind="response")
        [0, 1, 3, 4, 6, 7, 8, 9]
        >>> check_loss(lambda student, teacher: (student - teacher).mean(1), kind="response")
        Traceback (most recent call last):
        ...
        limbeck.testing.BrokenLawError: law 0: half precision is to be computed in float32, not in
        torch.bfloat16
    """
    subject = _Subject(loss, kind, reference, seed)
    tried = [law for law in _LAWS if law not in set(without) and subject.is_under(law)]
    for law in tried:
        with torch.enable_grad():
            _LAWS[law](subject)
    return tried


@dataclass(frozen=True)
class _Subject:
    """A loss under trial, and the inputs that it is tried on."""

    loss: Callable[..., Tensor]
    kind: Kind
    reference: Reference | None
    seed: int

    def is_under(self, law: int) -> bool:
        """Tell whether a law applies."""
        if law == 5 and "temperature" not in self._parameters:
            return False
        if law == 12 and not self._takes_targets:
            return False
        return law in _APPLIES[self.kind]

    @cached_property
    def _parameters(self) -> list[str]:
        return list(inspect.signature(self.loss).parameters)

    @cached_property
    def _takes_targets(self) -> bool:
        return self._parameters[1] == "targets"

    @property
    def generator(self) -> torch.Generator:
        """The same random numbers for every law."""
        return torch.Generator().manual_seed(self.seed)

    def draw(self, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Draw what the student says, and what the loss compares it with, in float64."""
        generator = self.generator
        shape = (_UNITS, 3, 2, 2) if self.kind == "feature" else (_UNITS, _CLASSES)
        student, teacher = (
            torch.randn(shape, generator=generator, dtype=torch.float64) * scale for _ in range(2)
        )
        if self.kind == "hard_label":
            return student, torch.randint(_CLASSES, (_UNITS,), generator=generator)
        return student, teacher

    def __call__(self, student: Tensor, second: Tensor, temperature: float = 2.0) -> Tensor:
        """Call the loss."""
        extra = {"temperature": temperature} if "temperature" in self._parameters else {}
        return self.loss(student, DenseTargets(second) if self._takes_targets else second, **extra)

    def gradient(self, student: Tensor, second: Tensor, temperature: float = 2.0) -> Tensor:
        """Give the gradient of the sum over units for the student."""
        leaf = student.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self(leaf, second, temperature).sum(), leaf)
        return gradient


def _hold(law: int, holds: bool | Tensor, what: str) -> None:
    if not bool(holds):
        raise BrokenLawError(law, what)


def _close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> bool:
    return torch.allclose(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance)


def _contract(subject: _Subject) -> None:
    student, second = subject.draw()
    value = subject(student, second)
    _hold(0, value.shape == (_UNITS,), f"one value a unit is ({_UNITS},), not {tuple(value.shape)}")
    for half in (torch.bfloat16, torch.float16):
        other = second if subject.kind == "hard_label" else second.to(half)
        kept = subject(student.to(half), other).dtype
        _hold(
            0, kept == torch.float32, f"half precision is to be computed in float32, not in {kept}"
        )


def _minimum(subject: _Subject) -> None:
    student, teacher = subject.draw()
    best, other = subject(teacher, teacher), subject(student, teacher)
    _hold(1, (best <= other).all(), "the minimum is at student = teacher")
    slope = subject.gradient(teacher, teacher).abs().max()
    _hold(1, slope < 1e-9, f"the gradient at student = teacher is {slope:.1e}")
    if subject.kind == "divergence":
        _hold(1, best.abs().max() < 1e-12, "a divergence is zero at student = teacher")
        _hold(1, (other > 0).all(), "a divergence is zero only at student = teacher")


def _non_negative(subject: _Subject) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for scale in (1e-3, 1.0, 30.0):
            student, second = subject.draw(scale)
            near = student if subject.kind == "hard_label" else second + 1e-4 * student
            for logits in (student, near):
                other = second if subject.kind == "hard_label" else second.to(dtype)
                lowest = subject(logits.to(dtype), other).min()
                _hold(2, lowest >= 0, f"{lowest:.1e} is negative, in {dtype}")


def _no_gradient_to_teacher(subject: _Subject) -> None:
    student, teacher = subject.draw()
    student.requires_grad_()
    teacher.requires_grad_()
    subject(student, teacher).sum().backward()
    _hold(3, student.grad is not None, "the student gets a gradient")
    _hold(3, teacher.grad is None, "no gradient reaches the teacher")


def _definition(subject: _Subject) -> None:
    student, second = subject.draw()

    def total(values: Any) -> float:
        if subject.reference is None:
            return subject(torch.from_numpy(values), second).sum().item()
        return float(np.sum(_by_reference(subject, values, second)))

    if subject.reference is not None:
        expected = torch.from_numpy(_by_reference(subject, student.numpy(), second))
        _hold(
            4, _close(subject(student, second), expected), "the value is not that of the definition"
        )
    numeric = torch.from_numpy(_differences(total, student.numpy()))
    _hold(
        4,
        _close(subject.gradient(student, second), numeric, 1e-6),
        "the gradient is not the value's",
    )


def _by_reference(subject: _Subject, student: Any, second: Tensor) -> Any:
    assert subject.reference is not None
    extra = {"temperature": 2.0} if "temperature" in subject._parameters else {}
    return np.asarray(subject.reference(student, second.numpy(), **extra), dtype=np.float64)


def _differences(function: Callable[[Any], float], at: Any, step: float = 1e-5) -> Any:
    """Central differences of a function of an array."""
    result = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        result[place] = (function(up) - function(down)) / (2 * step)
    return result


def _temperature(subject: _Subject) -> None:
    student, teacher = subject.draw()
    sizes = [
        subject.gradient(student, teacher, t).norm().item() for t in (1.0, 2.0, 4.0, 8.0, 16.0)
    ]
    spread = max(sizes) / min(sizes)
    _hold(5, spread < _FLAT, f"gradients at T = 1 to 16 lie a factor of {spread:.1f} apart")
    difference = student - teacher
    squares = (difference - difference.mean(1, keepdim=True)).square().mean(1)
    ratio = subject(student, teacher, 1e3) / squares
    _hold(
        5, _close(ratio, ratio.mean().expand_as(ratio), 1e-2), "the limit at large T is logit MSE"
    )


def _split(subject: _Subject) -> None:
    student, second = subject.draw()
    whole = subject.gradient(student, second)
    parts = [subject.gradient(student[a:b], second[a:b]) for a, b in ((0, 1), (1, 3), (3, _UNITS))]
    _hold(6, _close(torch.cat(parts), whole), "micro-batches give another gradient than the whole")


def _masked(subject: _Subject) -> None:
    student, second = subject.draw()
    kept = torch.tensor([True, False, True, True, False, True])
    spoiled = torch.where(kept.reshape(-1, *[1] * (student.ndim - 1)), student, student * 1e4)
    total, gradient = _averaged(subject, spoiled, second, kept)
    expected, left = _averaged(subject, student[kept], second[kept], kept[kept])
    _hold(7, _close(total, expected), "a unit of weight 0 changes the value")
    _hold(7, _close(gradient[kept], left), "a unit of weight 0 changes the others' gradient")
    _hold(7, not gradient[~kept].any(), "a unit of weight 0 gets a gradient")
    total, gradient = _averaged(subject, spoiled, second, torch.zeros_like(kept))
    _hold(7, total == 0 and not gradient.any(), "a batch without weight does not give 0")


def _averaged(
    subject: _Subject, student: Tensor, second: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """Give an objective's total over one term, and its gradient for the student."""
    hard = subject.kind == "hard_label"
    term = Term(lambda ours, theirs: subject(ours, theirs), teacher="labels" if hard else "logits")
    leaf = student.detach().clone().requires_grad_()
    index = torch.arange(len(student))
    response = SimpleNamespace(
        outputs={"logits": leaf}, labels=second, weights=kept.double(), sample_of=index, taps={}
    )
    answer = SimpleNamespace(targets=DenseTargets(second), taps={})
    total = Objective([term])(response, answer).total
    (gradient,) = torch.autograd.grad(total, leaf)
    return total.detach(), gradient


def _symmetry(subject: _Subject) -> None:
    student, second = subject.draw()
    value = subject(student, second)
    order = torch.randperm(_CLASSES, generator=subject.generator)
    hard = subject.kind == "hard_label"
    permuted = order.argsort()[second] if hard else second[:, order]
    _hold(8, _close(subject(student[:, order], permuted), value), "the order of classes matters")
    if subject.kind != "response":  # a response loss may ask for the teacher's offset, too
        offset = torch.linspace(-5, 5, _UNITS, dtype=torch.float64).unsqueeze(1)
        shifted = second if hard else second - 2 * offset
        _hold(8, _close(subject(student + offset, shifted), value), "a constant on logits matters")


def _extremes(subject: _Subject) -> None:
    student, second = subject.draw(1e4)
    student = student.clamp(-1e4, 1e4).float()
    if subject.kind != "hard_label":
        second = second.clamp(-1e4, 1e4).float()
    cases = {"logits of 1e4": (student, second)}
    if subject.kind != "feature":
        out = torch.rand(student.shape, generator=subject.generator) < 0.4
        out[:, 0], out[0] = False, torch.tensor([False, True, True, True, True])
        ruled = student.masked_fill(out, -float("inf"))
        cases["-inf on the student's side"] = (ruled, second)
        if subject.kind != "hard_label":
            theirs = second.masked_fill(out.roll(1, dims=1), -float("inf"))
            cases["-inf on the teacher's side"] = (student, theirs)
            cases["-inf on both sides"] = (ruled, second.masked_fill(out, -float("inf")))
            cases["-inf on other classes of either side"] = (ruled, theirs)
    for case, inputs in cases.items():
        _hold(9, subject(*inputs).isfinite().all(), f"the value is not finite: {case}")
        _hold(9, subject.gradient(*inputs).isfinite().all(), f"the gradient is not finite: {case}")


def _padding(subject: _Subject) -> None:
    student, teacher = subject.draw()
    value = subject(student, teacher)
    padding = torch.full((_UNITS, 3), 7.0, dtype=torch.float64)
    wide = [torch.cat([logits, padding], dim=1) for logits in (student, teacher)]
    _hold(12, _close(subject(wide[0], teacher), value), "the student's padding matters")
    _hold(12, _close(subject(student, wide[1]), value), "the teacher's padding matters")


_LAWS: dict[int, Callable[[_Subject], None]] = {
    0: _contract,
    1: _minimum,
    2: _non_negative,
    3: _no_gradient_to_teacher,
    4: _definition,
    5: _temperature,
    6: _split,
    7: _masked,
    8: _symmetry,
    9: _extremes,
    12: _padding,
}
_APPLIES: dict[str, frozenset[int]] = {
    "divergence": frozenset(_LAWS),
    "response": frozenset(_LAWS) - {2, 5, 12},
    "feature": frozenset(_LAWS) - {2, 5, 8, 12},
    "hard_label": frozenset(_LAWS) - {1, 3, 5, 12},
}
