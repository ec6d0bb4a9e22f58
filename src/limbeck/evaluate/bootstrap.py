"""How sure a figure is that was computed from samples: drawn again, with replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Interval

Counts = NDArray[np.float64]
Statistic = Callable[[Counts], NDArray[np.float64]]
BLOCK = 2**22
"""Counts held at once."""


class Resamples:
    """The same samples drawn again and again: one set of draws serves every figure of a sitting.

    A statistic takes how often each sample was drawn, `[draws, samples]`, and gives one value a
    draw; that is one matrix product for anything that is a mean.

    Args:
        samples: How many samples there are.
        draws: How often all of them are drawn again.
        seed: Decides the draws.

    Example:
        >>> right = np.array([1.0] * 90 + [0.0] * 10)
        >>> found = Resamples(100, seed=0).estimate(lambda counts: counts @ right / 100)
        >>> found.value, round(found.interval.low, 2), round(found.interval.high, 2)
        (0.9, 0.84, 0.96)

    Source: Efron, Annals of Statistics 1979.
    """

    def __init__(self, samples: int, *, draws: int = 1000, seed: int = 0) -> None:
        self.samples = samples
        self.draws = draws
        self._seed = seed

    @cached_property
    def _blocks(self) -> list[NDArray[np.uint16]]:
        random = np.random.default_rng(self._seed)
        size = max(1, BLOCK // self.samples)
        return [
            np.stack([self._draw(random) for _ in range(min(size, self.draws - first))])
            for first in range(0, self.draws, size)
        ]

    def _draw(self, random: np.random.Generator) -> NDArray[np.uint16]:
        drawn = random.integers(self.samples, size=self.samples)
        return np.bincount(drawn, minlength=self.samples).astype(np.uint16)

    def counts(self) -> Iterator[Counts]:
        """Give how often each sample was drawn, `[draws, samples]`, block by block."""
        for block in self._blocks:
            yield block.astype(np.float64)

    def distribution(self, statistic: Statistic) -> NDArray[np.float64]:
        """Give a statistic of every draw, `[draws]`."""
        return np.concatenate([statistic(block) for block in self.counts()])

    def estimate(self, statistic: Statistic, *, level: float = 0.95) -> Estimate:
        """Give a statistic of the samples themselves, and its percentile interval."""
        value = float(statistic(np.ones((1, self.samples)))[0])
        ends = np.nanquantile(self.distribution(statistic), [(1 - level) / 2, (1 + level) / 2])
        interval = Interval(low=ends[0], high=ends[1], level=level, method="percentile bootstrap")
        return Estimate(value=value, interval=interval)
