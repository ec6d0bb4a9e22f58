"""A teacher's answer for a batch: soft targets by output, and features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.targets.categorical import DenseTargets, SampledTargets, TopKTargets
from limbeck.targets.head import HeadTargets
from limbeck.targets.values import BernoulliTargets, ValueTargets

CategoricalTargets: TypeAlias = DenseTargets | TopKTargets | SampledTargets | HeadTargets
Targets: TypeAlias = CategoricalTargets | ValueTargets | BernoulliTargets


@dataclass(frozen=True)
class Answer:
    """The output of a teacher for a batch.

    Attributes:
        targets: The soft targets by output, one row per element of that output; the first output is
            the primary one.
        taps: The outputs of tapped modules, by path, `[samples, ...]`.

    Example:
        >>> import torch
        >>> Answer({"logits": DenseTargets(torch.zeros(2, 3))}).logits.shape
        torch.Size([2, 3])
    """

    targets: Mapping[str, Targets]
    taps: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def primary(self) -> Targets:
        """Return the targets of the primary output."""
        return next(iter(self.targets.values()))

    @property
    def logits(self) -> Tensor:
        """Return all logits of the primary output, `[elements, classes]`.

        Raises:
            InputError: The targets are not dense logits.
        """
        if isinstance(self.primary, DenseTargets | BernoulliTargets):
            return self.primary.logits
        given = type(self.primary).__name__
        raise InputError(Problem("answer", given, "DenseTargets: all of the teacher's logits"))
