"""Rank selection per layer: by retained energy, or under one budget for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Cost:
    """The cost of a layer, in parameters or operations.

    Attributes:
        dense: Cost of the original layer.
        each: Cost per rank of the two replacement layers.
        highest: The highest rank to consider.

    Example:
        >>> Cost(dense=8 * 12, each=8 + 12, highest=8).most  # 5 would cost 100
        4
    """

    dense: int
    each: int
    highest: int

    @property
    def most(self) -> int:
        """Return the largest rank that reduces the cost; 0 if none does."""
        return min(self.highest, (self.dense - 1) // self.each) if self.dense else 0

    @property
    def saving(self) -> int:
        """Return the saving at rank 1; 0 if no rank saves."""
        return self.dense - self.each if self.most else 0


def lost(energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the residual energy, as a share, for each rank from 1.

    Example:
        >>> lost(np.array([6.0, 3.0, 1.0]))
        array([0.4, 0.1, 0. ])
    """
    tails = np.append(np.cumsum(energies[:0:-1])[::-1], 0.0)
    total = energies.sum()
    shares: NDArray[np.float64] = tails / total if total else tails
    return shares


def by_energy(losses: NDArray[np.float64], energy: float) -> int:
    """Return the smallest rank that retains a share of the energy.

    Example:
        >>> by_energy(np.array([0.4, 0.1, 0.0]), 0.9)
        2
    """
    # Rounding must not cost a rank: 1 - 0.9 is slightly less than 0.1.
    return int(np.argmax(losses <= 1 - energy + 1e-12)) + 1


def by_budget(
    costs: Mapping[str, Cost], losses: Mapping[str, NDArray[np.float64]], saving: int
) -> dict[str, int]:
    """Choose the ranks that reach a saving with the least loss, summed over the layers.

    Per layer, the first step goes from the dense layer to the best rank that saves, the next ones
    go down rank by rank; the ratio of loss to saving rises with each step. Greedy: the steps of all
    layers are taken in the order of that ratio until the saving is reached, which is optimal for
    every saving that falls on a step. The last layer cut regains the surplus.

    Args:
        costs: Cost of each layer, by path.
        losses: Loss of each layer per rank from 1: descending and convex.
        saving: Amount to save, in the unit of the costs; at most the saving of all layers at rank
            1.

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
    """One layer's step to its next rank, with the loss per unit saved."""

    price: float
    path: str
    rank: int
    saving: int


def _steps(path: str, cost: Cost, losses: Mapping[str, NDArray[np.float64]]) -> list[_Step]:
    lost = losses[path][: cost.most]
    savings = cost.dense - cost.each * np.arange(1, cost.most + 1)
    start = int(np.argmin(lost / savings))
    further = (lost[:-1] - lost[1:])[:start][::-1] / cost.each
    # Ratios rise by construction; rounding must not reorder a layer's steps.
    prices = np.maximum.accumulate([lost[start] / savings[start], *further]).tolist()
    first = _Step(prices[0], path, start + 1, int(savings[start]))
    return [first, *(_Step(p, path, start - i, cost.each) for i, p in enumerate(prices[1:]))]
