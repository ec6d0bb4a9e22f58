"""Soft targets as the teacher's last hidden states and its head."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from limbeck.core.numbers import is_positive
from limbeck.core.tensors import without_autocast
from limbeck.errors import InputError, Problem
from limbeck.targets.categorical import DenseTargets, Rows


@dataclass(frozen=True, eq=False)
class HeadTargets:
    """The teacher's last hidden states and its head; logits are computed a few rows at a time.

    Logits are hidden · weightᵀ + bias, then `softcap` · tanh(logits / softcap) if it is set.

    Attributes:
        hidden: `[units, features]`.
        weight: `[classes, features]`.
        bias: `[classes]`, if the head has a bias.
        softcap: The soft cap of the logits, if the head has one.

    Raises:
        InputError: Inconsistent shapes or dtypes.

    Example:
        >>> import torch
        >>> HeadTargets(torch.ones(2, 4), torch.eye(4)).take(slice(0, 1)).logits
        tensor([[1., 1., 1., 1.]])
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None

    def __post_init__(self) -> None:
        problems = list(head_problems("HeadTargets", self.hidden, self.weight, self.bias))
        if self.softcap is not None and not is_positive(self.softcap):
            allowed = "a finite number above 0, or None"
            problems.append(Problem("HeadTargets.softcap", self.softcap, allowed))
        if problems:
            raise InputError(*problems)

    @property
    def units(self) -> int:
        """Return the number of elements."""
        return self.hidden.shape[0]

    @property
    def classes(self) -> int:
        """Return the teacher's number of classes."""
        return self.weight.shape[0]

    def take(self, rows: Rows) -> DenseTargets:
        """Compute the logits of some elements."""
        weight, bias = self.weight.detach(), self.bias
        # Autocast would compute other logits in forward than in backward, where it is disabled.
        with without_autocast(weight):
            logits = self.hidden.detach()[rows].to(weight.dtype) @ weight.T
        if bias is not None:
            logits += bias.detach().to(logits.dtype)
        return DenseTargets(capped(logits, self.softcap))

    def cut(self, classes: int) -> HeadTargets:
        """Remove the classes from this index on, without a copy."""
        bias = None if self.bias is None else self.bias[:classes]
        return replace(self, weight=self.weight[:classes], bias=bias)


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Soft-cap new logits to ±softcap, in place.

    Example:
        >>> import torch
        >>> capped(torch.tensor([1000.0]), 30.0)
        tensor([30.])
    """
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def head_problems(
    where: str, hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Problem, ...]:
    """Return the problems of hidden states and a head that do not fit together.

    Example:
        >>> import torch
        >>> head_problems("head", torch.zeros(2, 3), torch.zeros(5, 3), None)
        ()
    """
    if not (hidden.ndim == 2 and hidden.is_floating_point()):
        given = f"{hidden.dtype} {tuple(hidden.shape)}"
        fix = "Flatten to one row a unit: hidden.flatten(0, -2)."
        return (Problem(f"{where}.hidden", given, "floating-point [units, features]", fix),)
    features = hidden.shape[1]
    if not (weight.ndim == 2 and weight.shape[0] > 0 and weight.shape[1] == features):
        allowed = f"[classes, {features}], as the hidden states have {features} features"
        return (Problem(f"{where}.weight", tuple(weight.shape), allowed),)
    if bias is not None and bias.shape != weight.shape[:1]:
        return (Problem(f"{where}.bias", tuple(bias.shape), f"[{weight.shape[0]}], one a class"),)
    return ()
