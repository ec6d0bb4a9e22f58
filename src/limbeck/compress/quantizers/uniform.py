"""Uniform quantisation: weights of 2 to 8 bits, activations of 4 to 8."""

from __future__ import annotations

from pydantic import Field

from limbeck.compress.fake_quant_method import FakeQuantization, Settings


class Uniform(FakeQuantization):
    """Uniform quantisation of weights and activations.

    Source: Jacob et al. 2018 (arXiv:1712.05877); `step: learned`, Esser et al. 2020 (LSQ,
    arXiv:1902.08153), for inputs and affine weights Bhalgat et al. 2020 (LSQ+, arXiv:2004.09576).

    Example:
        >>> Uniform(bits=4, activation_bits=None).step
        'minmax'
    """

    bits: int = Field(8, ge=2, le=8, description="Bits of weights.")
    symmetric: bool = Field(
        True, description="Zero in the middle of weights' grids, or a zero point."
    )

    def weight(self) -> Settings:
        """Return the settings of a weight quantiser."""
        return self.uniform(self.bits, symmetric=self.symmetric)
