"""Interval arithmetic, with bounds on float32 rounding errors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from limbeck.errors import LimbeckError

UNIT = 2.0**-24
"""The largest relative error of one rounding in float32 (unit roundoff)."""


class NoBoundsError(LimbeckError):
    """A part of a model that has no bound propagation rule."""


@dataclass(frozen=True)
class Bounds:
    """Elementwise bounds `low` and `high`, of equal shape `[n, ...]`, in float64."""

    low: Tensor
    high: Tensor

    @property
    def centre(self) -> Tensor:
        """Return the midpoint."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> Tensor:
        """Return half the width."""
        return (self.high - self.low) / 2

    @property
    def size(self) -> Tensor:
        """Return the largest possible absolute value per element."""
        return self.low.abs().maximum(self.high.abs())

    def rounded(self, terms: float) -> Bounds:
        r"""Return bounds widened by `terms` roundings in float32.

        $$|\mathrm{fl}(x) - x| \le k\,2^{-24}\,|x|$$

        Such bounds hold for the model in exact arithmetic and for float32 in any order of
        summation; the error of the float64 used here is a thousand millionth of that.

        Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1.
        """
        slack = terms * UNIT * self.size
        return Bounds(self.low - slack, self.high + slack)
