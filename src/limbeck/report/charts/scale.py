"""Scales: from a number to a coordinate, and the ticks of an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from numbers (`low`–`high`) to coordinates (`start`–`end`).

    Example:
        >>> scale = Scale(1, 100, start=0, end=200, log=True)
        >>> scale(10), scale.ticks()
        (100.0, (1.0, 10.0, 100.0))
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the coordinate of a number, clamped to the range."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 4) -> tuple[float, ...]:
        """Return round numbers within the scale, about `count` of them."""
        return _decades(self.low, self.high) if self.log else _steps(self.low, self.high, count)


def _steps(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return multiples of 1, 2, 2.5 or 5 times a power of ten."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if last <= first and count < 64:
        return _steps(low, high, count * 2)
    return tuple(round(step * i, 12) for i in range(first, last + 1))


def _decades(low: float, high: float) -> tuple[float, ...]:
    """Return powers of ten; if fewer than three, the twos and fives between them as well."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for units in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        marks = (unit * 10.0**exponent for exponent in exponents for unit in units)
        within = tuple(mark for mark in marks if low * 0.999 <= mark <= high * 1.001)
        if len(within) >= 3:
            return within[:: math.ceil(len(within) / 6)]
    return within if len(within) > 1 else _steps(low, high, 3)


def finite(values: Iterable[float | None]) -> list[float]:
    """Return the finite values."""
    return [value for value in values if value is not None and math.isfinite(value)]


def zoomed(
    values: Iterable[float | None], *, margin: float = 0.12, least: float = 1e-9
) -> tuple[float, float]:
    """Return a range that holds all values with a margin around them; never empty.

    Example:
        >>> zoomed([0.90, 0.98], margin=0.25)
        (0.88, 1.0)
    """
    known = finite(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    air = max((high - low) * margin, least, 0.05 * abs(high) if high == low else 0.0)
    return round(low - air, 12), round(high + air, 12)


def from_zero(values: Iterable[float | None], *, margin: float = 0.06) -> tuple[float, float]:
    """Return the range from zero to somewhat above the largest value."""
    top = max(finite(values), default=1.0)
    return 0.0, top * (1 + margin) if top > 0 else 1.0


def decades(values: Iterable[float | None], *, margin: float = 1.35) -> tuple[float, float]:
    """Return the range of a logarithmic scale, from below the smallest to above the largest."""
    known = [value for value in finite(values) if value > 0] or [1.0, 10.0]
    # The axis spans at least a factor of 4, so that a change of a few per cent looks small.
    widen = max(1.0, (4.0 / (margin**2 * max(known) / min(known))) ** 0.5)
    return min(known) / margin / widen, max(known) * margin * widen
