"""Numbers known to lie between two others, and how far arithmetic may have been off."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from limbeck.errors import LimbeckError

UNIT = 2.0**-24
"""The largest relative error of one rounding in float32."""


class NoBoundsError(LimbeckError):
    """A part of a model has no rule that says where its results lie."""


@dataclass(frozen=True)
class Bounds:
    """Every number lies between `low` and `high`, of equal shape `[n, ...]`, in float64."""

    low: Tensor
    high: Tensor

    @property
    def centre(self) -> Tensor:
        """The middle."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> Tensor:
        """Half the width."""
        return (self.high - self.low) / 2

    @property
    def size(self) -> Tensor:
        """The largest absolute value that each number can have."""
        return self.low.abs().maximum(self.high.abs())

    def rounded(self, terms: float) -> Bounds:
        r"""Widen by what float32 may be off: `terms` roundings of numbers of this size.

        $$|\mathrm{fl}(x) - x| \le k\,2^{-24}\,|x|$$

        Bounds so widened hold for the model in exact arithmetic and for float32 in any order of
        summation; the float64 used here is off by a thousand millionth of that.

        Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1.
        """
        slack = terms * UNIT * self.size
        return Bounds(self.low - slack, self.high + slack)
