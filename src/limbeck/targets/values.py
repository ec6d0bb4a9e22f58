"""Soft targets of outputs without exclusive classes: real values, and independent labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.targets.categorical import RowTargets


@dataclass(frozen=True, eq=False)
class ValueTargets(RowTargets):
    """Real values that a teacher predicts: a regression, a forecast, quantiles or an embedding.

    Attributes:
        mean: One row per element, `[elements, ...]`.
        deviation: The teacher's standard deviation per value, shaped as the mean; None if it
            predicts none. An ensemble sets it to the deviation between and within its members.

    Raises:
        InputError: The shapes differ, or a tensor is not floating-point.

    Example:
        >>> import torch
        >>> ValueTargets(torch.zeros(4, 3)).take(slice(0, 2)).elements
        2
    """

    mean: Tensor
    deviation: Tensor | None = None

    def __post_init__(self) -> None:
        _check("ValueTargets.mean", self.mean)
        if self.deviation is not None and self.deviation.shape != self.mean.shape:
            allowed = f"{tuple(self.mean.shape)}, as the mean has"
            given = tuple(self.deviation.shape)
            raise InputError(Problem("ValueTargets.deviation", given, allowed))

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return self.mean.shape[0]

    @property
    def classes(self) -> None:
        """Return None: values have no classes."""

    @property
    def values(self) -> Tensor:
        """Return the means, for losses on tensors."""
        return self.mean


@dataclass(frozen=True, eq=False)
class BernoulliTargets(RowTargets):
    """A teacher's logits of independent labels, as in multi-label classification.

    Attributes:
        logits: One logit per element and label, `[elements, labels]`; its sigmoid is the
            probability that the label applies.

    Raises:
        InputError: The logits are not floating-point `[elements, labels]`.

    Example:
        >>> import torch
        >>> BernoulliTargets(torch.zeros(2, 3)).classes
        3
    """

    logits: Tensor

    def __post_init__(self) -> None:
        _check("BernoulliTargets.logits", self.logits, labels=True)

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return self.logits.shape[0]

    @property
    def classes(self) -> int:
        """Return the number of labels."""
        return self.logits.shape[1]

    @property
    def values(self) -> Tensor:
        """Return the logits, for losses on tensors."""
        return self.logits


def _check(where: str, rows: Tensor, *, labels: bool = False) -> None:
    if rows.is_floating_point() and (rows.ndim == 2 if labels else rows.ndim):
        return
    given = f"{rows.dtype} {tuple(rows.shape)}"
    allowed = f"floating-point [elements, {'labels' if labels else '...'}]"
    raise InputError(Problem(where, given, allowed))
