"""Selections of elements."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from limbeck.core.numbers import is_whole
from limbeck.core.tensors import precise
from limbeck.errors import InputError, Problem, did_you_mean

Rows: TypeAlias = slice | Tensor
"""Which units: a slice, or their numbers `[chosen]`."""


def of_ids(where: str, ids: Tensor) -> tuple[Problem, ...]:
    """Return the problems of class ids that are not integers `[units, k]`."""
    if ids.dtype not in (torch.int64, torch.int32):
        fix = "Convert them with .long()."
        return (Problem(f"{where}.ids", str(ids.dtype), "whole numbers, int64 or int32", fix),)
    if ids.ndim != 2 or ids.shape[1] == 0:
        allowed = "a tensor [units, k] with at least one class a unit"
        return (Problem(f"{where}.ids", tuple(ids.shape), allowed),)
    return ()


def of_shape(
    where: str, name: str, given: Tensor, ids: Tensor, *, floating: bool = True
) -> tuple[Problem, ...]:
    """Return the problems of a tensor that does not have one number per kept class."""
    if given.shape != ids.shape:
        allowed = f"{tuple(ids.shape)}, as the ids have"
        return (Problem(f"{where}.{name}", tuple(given.shape), allowed),)
    if floating and not given.is_floating_point():
        fix = "Convert it with .float()."
        return (Problem(f"{where}.{name}", str(given.dtype), "a floating-point tensor", fix),)
    return ()


def check_logits(where: str, logits: Tensor) -> None:
    """Raise an error unless a tensor has one row of logits per element.

    Raises:
        InputError: The tensor is not `[units, classes]`, or has an integer dtype.
    """
    if logits.ndim != 2 or logits.shape[1] == 0 or not logits.is_floating_point():
        given = f"{logits.dtype} {tuple(logits.shape)}"
        raise InputError(Problem(f"{where}.logits", given, "floating-point [units, classes]"))


@dataclass(frozen=True, eq=False)
class DenseTargets:
    """All of the teacher's logits.

    Attributes:
        logits: One row per element, `[units, classes]`; log-probabilities are valid, too.

    Example:
        >>> import torch
        >>> targets = DenseTargets(torch.zeros(2, 3))
        >>> targets.units, targets.classes
        (2, 3)
    """

    logits: Tensor

    @property
    def units(self) -> int:
        """Return the number of elements."""
        return self.logits.shape[0]

    @property
    def classes(self) -> int:
        """Return the teacher's number of classes."""
        return self.logits.shape[-1]

    def take(self, rows: Rows) -> DenseTargets:
        """Return the targets of some elements."""
        return DenseTargets(self.logits[rows])


Tail: TypeAlias = Literal["bucket", "renormalize"]


@dataclass(frozen=True, eq=False)
class TopKTargets:
    """The top-k classes of each element, with a treatment of the tail.

    Attributes:
        ids: The classes, integers `[units, k]`.
        log_probabilities: Their log-probabilities at a temperature of 1, `[units, k]`.
        classes: The teacher's number of classes.
        tail: `bucket` merges all other classes into one more class; `renormalize` drops them, for
            the student, too.
        log_tail: The log-probability of all other classes together, `[units]`. None uses 1 minus
            the sum, which is inexact for a confident teacher.

    Raises:
        InputError: Inconsistent shapes, dtypes or settings.

    Example:
        >>> import torch
        >>> TopKTargets.of(torch.tensor([[3.0, 0.0, 2.0]]), 2).ids
        tensor([[0, 2]])
        >>> TopKTargets(torch.tensor([[0, 2]]), torch.zeros(1, 3), classes=3)
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: TopKTargets.log_probabilities: got (1, 3); allowed: (1, 2), as
        the ids have
    """

    ids: Tensor
    log_probabilities: Tensor
    classes: int
    tail: Tail = "bucket"
    log_tail: Tensor | None = None

    def __post_init__(self) -> None:
        problems = [
            *of_ids("TopKTargets", self.ids),
            *of_shape("TopKTargets", "log_probabilities", self.log_probabilities, self.ids),
        ]
        if not is_whole(self.classes, least=1):
            problems.append(Problem("TopKTargets.classes", self.classes, "a whole number above 0"))
        if self.tail not in get_args(Tail):
            tails = get_args(Tail)
            fix = did_you_mean(self.tail, tails)
            problems.append(Problem("TopKTargets.tail", self.tail, ", ".join(tails), fix))
        if self.log_tail is not None and self.log_tail.shape != self.ids.shape[:1]:
            given, allowed = tuple(self.log_tail.shape), f"one a unit, {tuple(self.ids.shape[:1])}"
            problems.append(Problem("TopKTargets.log_tail", given, allowed))
        if problems:
            raise InputError(*problems)

    @classmethod
    def of(cls, logits: Tensor, k: int, *, tail: Tail = "bucket") -> TopKTargets:
        """Return the k most probable classes of each element.

        Args:
            logits: The teacher's logits, `[units, classes]`.
            k: The number of classes to keep, from 1 to all.
            tail: See the attribute.

        Raises:
            InputError: Logits that are not `[units, classes]`, or a k out of range.
        """
        check_logits("TopKTargets.of", logits)
        if not (is_whole(k, least=1) and k <= logits.shape[1]):
            allowed = f"a whole number from 1 to {logits.shape[1]}"
            raise InputError(Problem("TopKTargets.of.k", k, allowed))
        logits = precise(logits.detach())
        highest, ids = logits.topk(k, dim=-1)
        others = logits.scatter(1, ids, -float("inf")).logsumexp(-1)
        total = logits.logsumexp(-1)
        return cls(ids, highest - total.unsqueeze(1), logits.shape[1], tail, others - total)

    @property
    def units(self) -> int:
        """Return the number of elements."""
        return self.ids.shape[0]

    def take(self, rows: Rows) -> TopKTargets:
        """Return the targets of some elements."""
        tail = None if self.log_tail is None else self.log_tail[rows]
        kept = self.log_probabilities[rows]
        return replace(self, ids=self.ids[rows], log_probabilities=kept, log_tail=tail)
