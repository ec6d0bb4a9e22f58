"""What an objective reads, and what it says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.targets import Targets


@runtime_checkable
class Responds(Protocol):
    """What the objective reads of a student's response (`limbeck.tasks.Response`)."""

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """The student's answers by name, each `[units, ...]`."""

    @property
    def labels(self) -> Tensor:
        """The right answers, `[units]`."""

    @property
    def weights(self) -> Tensor:
        """How much each unit counts, `[units]`."""

    @property
    def sample_of(self) -> Tensor:
        """Which sample each unit came from, `[units]`."""

    @property
    def taps(self) -> Mapping[str, Tensor]:
        """Features by path, `[samples, ...]`."""


@runtime_checkable
class Answers(Protocol):
    """What the objective reads of a teacher's answer (`limbeck.teachers.Answer`)."""

    @property
    def targets(self) -> Targets:
        """The teacher's soft answer, one row a unit."""

    @property
    def taps(self) -> Mapping[str, Tensor]:
        """Features by path, `[samples, ...]`."""


@dataclass(frozen=True)
class TrainingSet:
    """What terms may want to know of the data that is trained on.

    Attributes:
        samples: How many there are; a memory bank has a place for each.
        class_counts: How many of each class; empty if that has no meaning.
    """

    samples: int
    class_counts: tuple[int, ...] = ()


class TermLoss(NamedTuple):
    """A term's mean over units, raw and times its weight; for the log, without gradient."""

    raw: Tensor
    weighted: Tensor


@dataclass(frozen=True)
class Losses:
    """What an objective says to one micro-batch.

    Attributes:
        total: The sum of the weighted terms; the only tensor here that carries a gradient.
        terms: Each term, raw and weighted, by its name.
        gradient_norms: How large each raw term's gradient is, where that was measured.
    """

    total: Tensor
    terms: Mapping[str, TermLoss]
    gradient_norms: Mapping[str, Tensor] = field(default_factory=dict)

    def check(self) -> None:
        """Stop on what is not finite; waits for the device once.

        Raises:
            LimbeckError: The total is not finite; the message names the terms and their values.

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
