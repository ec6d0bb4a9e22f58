"""Binary weight quantisation."""

from __future__ import annotations

from limbeck.compress.fake_quant_method import FakeQuantization, Settings


class Binary(FakeQuantization):
    """Binary weight quantisation: sign times mean magnitude, with uniformly quantised activations.

    Source: Rastegari et al. 2016 (binary weights of XNOR-Net, arXiv:1603.05279).

    Example:
        >>> Binary(activation_bits=None).per_channel
        True
    """

    def weight(self) -> Settings:
        """Return the settings of a weight quantiser."""
        return {
            "grid": "binary",
            "per_channel": self.per_channel,
            "powers_of_two": self.power_of_two,
        }
