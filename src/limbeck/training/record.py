"""What a training remembers of itself: where it stands, and what the losses were."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.objective import Losses


@dataclass
class Progress:
    """Where a training stands; with the seed, this is the sampler's position too."""

    epoch: int = 0
    step: int = 0
    best_score: float = float("-inf")
    best_epoch: int = 0
    since_better: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Give it as plain data."""
        return dataclasses.asdict(self)


class Tally:
    """Running sums of the losses by term, kept on the device so that no step waits for a number."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.names: list[str] = []
        self._epoch, self._recent = torch.zeros(0), torch.zeros(0)

    def add(self, losses: Losses, share: Tensor | None) -> None:
        """Add a micro-batch, which counts `share` of its optimiser step (all of it if None)."""
        values = [losses.total.detach()]
        for term in losses.terms.values():
            values += [term.raw.detach(), term.weighted.detach()]
        if not self.names:
            self.names = ["train/loss"]
            for name in losses.terms:
                self.names += [f"train/{name}/raw", f"train/{name}/weighted"]
            # The last place counts optimiser steps.
            self._epoch = torch.zeros(len(values) + 1, device=self._device, dtype=torch.float64)
            self._recent = self._epoch.clone()
        whole = torch.ones((), device=self._device)
        row = torch.stack([*(value.to(self._device, torch.float64) for value in values), whole.double()])
        row = row if share is None else row * share
        self._epoch += row
        self._recent += row

    def epoch(self, accelerator: Accelerator) -> dict[str, float]:
        """Give the means since the epoch began, over all processes, and begin anew."""
        means = self._means(self._epoch, accelerator)
        self._epoch.zero_()
        self._recent.zero_()
        return means

    def recent(self, accelerator: Accelerator) -> dict[str, float]:
        """Give the means since this was last asked, over all processes."""
        means = self._means(self._recent, accelerator)
        self._recent.zero_()
        return means

    def _means(self, sums: Tensor, accelerator: Accelerator) -> dict[str, float]:
        sums = accelerator.reduce(sums.clone(), reduction="sum")
        means = (sums[:-1] / sums[-1]).tolist()
        return dict(zip(self.names, means, strict=True))

    def merge(self, accelerator: Accelerator) -> None:
        """Leave every process's sums with the first one, who saves them."""
        if accelerator.num_processes > 1:
            first = float(accelerator.is_main_process)
            self._epoch = accelerator.reduce(self._epoch, reduction="sum") * first
            self._recent = accelerator.reduce(self._recent, reduction="sum") * first

    def state(self) -> dict[str, Tensor]:
        """Give the sums as tensors."""
        return {"epoch": self._epoch, "recent": self._recent}

    def restore(self, names: list[str], state: dict[str, Tensor], *, first: bool) -> None:
        """Put saved sums back, in the process that is the first."""
        self.names = list(names)
        self._epoch = state["epoch"].to(self._device) * float(first)
        self._recent = state["recent"].to(self._device) * float(first)
