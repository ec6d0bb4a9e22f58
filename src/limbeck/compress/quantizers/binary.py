"""Weights of two values."""

from __future__ import annotations

from limbeck.compress.fake_quant.method import FakeQuantization, Settings


class Binary(FakeQuantization):
    """Round weights to their sign times their mean size, and what comes into layers to even grids.

    Source: Rastegari et al. 2016 (binary weights of XNOR-Net, arXiv:1603.05279).

    Example:
        >>> Binary(inputs=None).per_channel
        True
    """

    def weight(self) -> Settings:
        """Give the settings of a weight's quantiser."""
        return {
            "grid": "binary",
            "per_channel": self.per_channel,
            "powers_of_two": self.power_of_two,
        }
