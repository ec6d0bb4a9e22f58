"""What a training remembers of itself: where it stands, and what the losses were."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class History:
    """What a training was like.

    Attributes:
        rows: One row an epoch: losses by term, raw and weighted, and validation metrics. A metric
            that is not finite in an epoch is left out of its row.
        best_epoch: The epoch, from 1, whose weights were kept.
        steps: Optimiser steps taken.
        stopped_early: Whether validation stopped getting better before the last epoch.
    """

    rows: tuple[dict[str, float], ...]
    best_epoch: int
    steps: int
    stopped_early: bool


@dataclass
class Progress:
    """Where a training stands; with the seed, this is the sampler's position too.

    Attributes:
        epoch: Epochs that are done.
        step: Optimiser steps that are done.
        best_score: The best validation score so far.
        best_epoch: The epoch, from 1, that had it; the last one, if several did.
        since_better: Epochs since validation got better.
        rows: One row for each epoch that is done.
    """

    epoch: int = 0
    step: int = 0
    best_score: float = -math.inf
    best_epoch: int = 0
    since_better: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)

    def choose(self, score: float) -> bool:
        """Take in the score of the epoch just done; say whether its weights are the ones to keep.

        At least as good is good enough: of equal epochs the later one has the smaller learning rate
        behind it. Patience, though, asks for better. A score that is NaN is worse than any.

        Example:
            >>> progress = Progress(epoch=1)
            >>> [progress.choose(score) for score in (float("nan"), 0.9, 0.8, 0.9)]
            [True, True, False, True]
            >>> progress.since_better
            2
        """
        score = -math.inf if math.isnan(score) else score
        self.since_better = 0 if score > self.best_score else self.since_better + 1
        if score < self.best_score:
            return False
        self.best_score, self.best_epoch = score, self.epoch
        return True

    def as_dict(self) -> dict[str, Any]:
        """Give it as plain data."""
        return dataclasses.asdict(self)


class Tally:
    """Running sums of the losses by term, of this process's part of each step.

    Plain numbers, added in the order of the steps: a resumed training comes to the same bits.

    Example:
        >>> from types import SimpleNamespace
        >>> tally = Tally()
        >>> tally.add({"train/loss": 1.0})
        >>> tally.add({"train/loss": 2.0})
        >>> tally.take(SimpleNamespace(num_processes=1))
        {'train/loss': 1.5}
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps: dict[str, int] = {}

    def add(self, losses: Mapping[str, float]) -> None:
        """Add an optimiser step; what is measured now and then has a mean over those steps."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._steps[name] = self._steps.get(name, 0) + 1

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Give the means over the steps since this was last asked, over all processes."""
        names, sums, steps = list(self._sums), list(self._sums.values()), self._steps
        self._sums, self._steps = {}, {}
        if accelerator.num_processes > 1 and names:
            on_device = torch.tensor(sums, dtype=torch.float64, device=accelerator.device)
            sums = accelerator.reduce(on_device, reduction="sum").tolist()
        return {name: value / steps[name] for name, value in zip(names, sums, strict=True)}

    def state(self) -> dict[str, Any]:
        """Give the sums as plain data."""
        return {"sums": dict(self._sums), "steps": dict(self._steps)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put saved sums back."""
        self._sums, self._steps = dict(state["sums"]), dict(state["steps"])
