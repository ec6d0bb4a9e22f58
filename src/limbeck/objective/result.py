"""The inputs and results of an objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from limbeck.errors import LimbeckError


@dataclass(frozen=True)
class TrainingSet:
    """Properties of the training set, for terms that depend on it.

    Attributes:
        samples: The number of samples; a memory bank has a row for each.
        class_counts: The number of samples per class; empty if undefined.
    """

    samples: int
    class_counts: tuple[int, ...] = ()


class TermLoss(NamedTuple):
    """A term's mean over elements, raw and weighted; for the log, without gradient."""

    raw: Tensor
    weighted: Tensor


@dataclass(frozen=True)
class Losses:
    """The losses of one micro-batch: its part of the means of the whole optimiser step.

    Attributes:
        total: The sum of the weighted terms; the only tensor with a gradient.
        terms: Each term, raw and weighted, by name.
        gradient_norms: The gradient norm of each raw term, if measured.
        figures: Further figures for the log, by name: this micro-batch's parts of the step's means.
    """

    total: Tensor
    terms: Mapping[str, TermLoss]
    gradient_norms: Mapping[str, Tensor] = field(default_factory=dict)
    figures: Mapping[str, Tensor] = field(default_factory=dict)

    def check(self) -> None:
        """Raise an error if a loss is not finite, with one device synchronisation.

        Raises:
            LimbeckError: The total is not finite; the message lists the terms and their values.

        Example:
            >>> import torch
            >>> bad = torch.tensor(float("nan"))
            >>> Losses(bad, {"soft_target_kl": TermLoss(bad, bad)}).check()
            Traceback (most recent call last):
            ...
            limbeck.errors.LimbeckError: the loss is not finite: soft_target_kl = nan...
        """
        if math.isfinite(self.total.item()):
            return
        values = {name: term.weighted.item() for name, term in self.terms.items()}
        bad = {name: value for name, value in values.items() if not math.isfinite(value)} or values
        named = ", ".join(f"{name} = {value}" for name, value in bad.items())
        raise LimbeckError(
            f"the loss is not finite: {named}. Lower the learning rate, clip gradients, "
            "or look for such numbers in the data."
        )
