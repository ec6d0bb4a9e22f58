"""Soft targets as the teacher's last hidden states and its head."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from limbeck.core.numbers import is_positive
from limbeck.core.tensors import without_autocast
from limbeck.errors import InputError, Problem
from limbeck.targets.categorical import DenseTargets, Movable, Rows


@dataclass(frozen=True, eq=False)
class HeadTargets(Movable):
    """The teacher's last hidden states and its head; logits are computed a few rows at a time.

    Logits are hidden · weightᵀ + bias, then `softcap` · tanh(logits / softcap) if it is set.

    Attributes:
        hidden: `[elements, features]`.
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
        where = "HeadTargets"
        if problems := head_problems(where, self.hidden, self.weight, self.bias, self.softcap):
            raise InputError(*problems)

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return self.hidden.shape[0]

    @property
    def classes(self) -> int:
        """Return the teacher's number of classes."""
        return self.weight.shape[0]

    def take(self, rows: Rows) -> DenseTargets:
        """Compute the logits of some elements."""
        weight = self.weight.detach()
        # Autocast would compute other logits in forward than in backward, where it is disabled.
        with without_autocast(weight):
            logits = self.hidden.detach()[rows].to(weight.dtype) @ weight.T
        if self.bias is not None:
            logits += self.bias.detach().to(logits.dtype)
        return DenseTargets(softcap_(logits, self.softcap))

    def select(self, rows: Rows) -> HeadTargets:
        """Return the targets of some elements, in the same form."""
        return replace(self, hidden=self.hidden[rows])

    def cut(self, classes: int) -> HeadTargets:
        """Remove the classes from this index on, without a copy."""
        bias = None if self.bias is None else self.bias[:classes]
        return replace(self, weight=self.weight[:classes], bias=bias)


def softcap_(logits: Tensor, softcap: float | None) -> Tensor:
    """Apply a soft cap to logits, softcap · tanh(logits / softcap), in place.

    Example:
        >>> import torch
        >>> softcap_(torch.tensor([1000.0]), 30.0)
        tensor([30.])
    """
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def head_problems(
    where: str, hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: object
) -> list[Problem]:
    """Return the problems of hidden states and a head that do not fit together.

    Example:
        >>> import torch
        >>> head_problems("head", torch.zeros(2, 3), torch.zeros(5, 3), None, None)
        []
    """
    problems = []
    if not (hidden.ndim == 2 and hidden.is_floating_point()):
        given = f"{hidden.dtype} {tuple(hidden.shape)}"
        fix = "Flatten to one row per element: hidden.flatten(0, -2)."
        problems = [Problem(f"{where}.hidden", given, "floating-point [elements, features]", fix)]
    elif not (weight.ndim == 2 and weight.shape[0] > 0 and weight.shape[1] == hidden.shape[1]):
        features = hidden.shape[1]
        allowed = f"[classes, {features}], as the hidden states have {features} features"
        problems = [Problem(f"{where}.weight", tuple(weight.shape), allowed)]
    elif bias is not None and bias.shape != weight.shape[:1]:
        allowed = f"[{weight.shape[0]}], one per class"
        problems = [Problem(f"{where}.bias", tuple(bias.shape), allowed)]
    if softcap is not None and not is_positive(softcap):
        problems.append(Problem(f"{where}.softcap", softcap, "a finite number above 0, or None"))
    return problems
