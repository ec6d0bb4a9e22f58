"""Weights of three values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from limbeck.compress.fake_quant.method import FakeQuantization, Settings


class Ternary(FakeQuantization):
    """Round weights to −α, 0 and α, and what comes into layers to even grids.

    Source: Li, Zhang and Liu 2016 (TWN, arXiv:1605.04711).

    Example:
        >>> Ternary(threshold="learned").first_last_bits
        8
    """

    threshold: Annotated[
        Literal["mean", "learned"],
        Field(description="0.7 of the mean size of weights, or learned, together with α."),
    ] = "mean"

    def weight(self) -> Settings:
        """Give the settings of a weight's quantiser."""
        return {
            "grid": "ternary",
            "per_channel": self.per_channel,
            "learned": self.threshold == "learned",
            "powers_of_two": self.power_of_two,
        }
