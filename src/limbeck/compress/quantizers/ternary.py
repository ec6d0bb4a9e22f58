"""Ternary weight quantisation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from limbeck.compress.fake_quant_method import FakeQuantization, Settings


class Ternary(FakeQuantization):
    """Ternary weight quantisation, −α, 0 and α, with uniformly quantised activations.

    Source: Li, Zhang and Liu 2016 (TWN, arXiv:1605.04711).

    Example:
        >>> Ternary(threshold="learned").first_last_bits
        8
    """

    threshold: Literal["mean", "learned"] = Field(
        "mean", description="0.7 of the mean size of weights, or learned, together with α."
    )

    def weight(self) -> Settings:
        """Return the settings of a weight quantiser."""
        return {
            "grid": "ternary",
            "per_channel": self.per_channel,
            "learned": self.threshold == "learned",
            "powers_of_two": self.power_of_two,
        }
