"""How many directions each layer keeps: by the share of its energy, or under one budget for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Cost:
    """What a layer costs, in parameters or operations.

    Attributes:
        dense: As it is.
        each: Every rank of the two layers that may take its place.
        highest: The highest rank to think of.

    Example:
        >>> Cost(dense=8 * 12, each=8 + 12, highest=8).most  # 5 would cost 100
        4
    """

    dense: int
    each: int
    highest: int

    @property
    def most(self) -> int:
        """The largest rank that pays; 0 if none does."""
        return min(self.highest, (self.dense - 1) // self.each) if self.dense else 0

    @property
    def saving(self) -> int:
        """What rank 1 saves; 0 if no rank pays."""
        return self.dense - self.each if self.most else 0


def lost(energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the share of the energy that is lost by each rank from 1 on.

    Example:
        >>> lost(np.array([6.0, 3.0, 1.0]))
        array([0.4, 0.1, 0. ])
    """
    tails = np.append(np.cumsum(energies[:0:-1])[::-1], 0.0)
    total = energies.sum()
    shares: NDArray[np.float64] = tails / total if total else tails
    return shares


def by_energy(losses: NDArray[np.float64], energy: float) -> int:
    """Give the smallest rank that keeps a share of the energy.

    Example:
        >>> by_energy(np.array([0.4, 0.1, 0.0]), 0.9)
        2
    """
    # Rounding must not cost a rank: 1 - 0.9 is a little less than 0.1.
    return int(np.argmax(losses <= 1 - energy + 1e-12)) + 1


def by_budget(
    costs: Mapping[str, Cost], losses: Mapping[str, NDArray[np.float64]], saving: int
) -> dict[str, int]:
    """Choose ranks that save enough with the least loss, summed over the layers.

    Going from the dense layer to the best of the ranks that pay, and from there down rank by rank,
    every step of a layer loses more for what it saves than the one before. So the steps of all
    layers are taken in the order of loss for saving, until enough is saved; that is the best
    choice for every saving that falls on a step. The last layer cut gets back what is left over.

    Args:
        costs: What each layer costs, by path.
        losses: What each loses by each rank from 1 on: falling, and ever more slowly.
        saving: How much has to be saved, in the unit of the costs; at most what all layers save
            at rank 1.

    Returns:
        The rank of each layer that is cut, by path.

    Example:
        >>> cost = Cost(dense=64, each=16, highest=4)
        >>> losses = {"needed": np.array([0.5, 0.4, 0.3, 0]), "spare": np.array([0.1, 0, 0, 0])}
        >>> by_budget({"needed": cost, "spare": cost}, losses, saving=40)
        {'spare': 1}
    """
    steps = [
        step for path, cost in costs.items() if cost.most for step in _steps(path, cost, losses)
    ]
    ranks: dict[str, int] = {}
    saved = 0
    for step in sorted(steps, key=lambda step: step.price):
        ranks[step.path] = step.rank
        saved += step.saving
        if saved >= saving:
            cost = costs[step.path]
            ranks[step.path] = min(cost.most, step.rank + (saved - saving) // cost.each)
            break
    return ranks


@dataclass(frozen=True)
class _Step:
    """One layer's way to its next rank: what it loses for each unit that it saves."""

    price: float
    path: str
    rank: int
    saving: int


def _steps(path: str, cost: Cost, losses: Mapping[str, NDArray[np.float64]]) -> list[_Step]:
    lost = losses[path][: cost.most]
    savings = cost.dense - cost.each * np.arange(1, cost.most + 1)
    start = int(np.argmin(lost / savings))
    further = (lost[:-1] - lost[1:])[:start][::-1] / cost.each
    # Prices rise by themselves; rounding must not put a layer's steps out of order.
    prices = np.maximum.accumulate([lost[start] / savings[start], *further]).tolist()
    first = _Step(prices[0], path, start + 1, int(savings[start]))
    return [first, *(_Step(p, path, start - i, cost.each) for i, p in enumerate(prices[1:]))]
