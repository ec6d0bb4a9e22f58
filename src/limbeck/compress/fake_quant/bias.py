"""Fake quantisation of biases to int32 multiples of input scale times weight scale."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.fake_quant.activation import InputQuantizer
from limbeck.compress.fake_quant.numbers import fake_quantize
from limbeck.export.quantized import OnGrid

LARGEST = 2**30
"""Limit of a quantised bias, so that products can be added to it in int32."""


class BiasQuantizer(nn.Module, OnGrid):
    """A bias rounded to multiples of (input scale) · (weight scale), per channel.

    Integer kernels add it to the int32 accumulator, and ONNX Runtime rounds float biases to these
    multiples when it chooses such a kernel; training simulates the same rounding.

    Args:
        layer: The layer whose `weight` and inputs are quantised.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = (layer,)  # a tuple: the layer is the parent, and must not become a child

    @torch.no_grad()
    def grid(self, original: Tensor) -> tuple[Tensor, None]:
        """Return the scale, `[channels]` or one number; the zero point is 0."""
        (layer,) = self._layer
        tensor = weight_chain(layer).original
        for link in weight_chain(layer):
            if isinstance(link, OnGrid):
                return input_quantizer(layer).grid()[0] * link.grid(tensor)[0], None
            tensor = link(tensor)
        raise TypeError("the layer's weight is not quantised")

    def forward(self, bias: Tensor) -> Tensor:
        """Return the bias, rounded to the grid."""
        return fake_quantize(bias, self.grid(bias)[0], None, -LARGEST, LARGEST)

    def overflows(self, bias: Tensor) -> bool:
        """Return whether a bias exceeds the int32 range."""
        return bool((bias.abs() > LARGEST * self.grid(bias)[0]).any())


def weight_chain(layer: nn.Module) -> parametrize.ParametrizationList:
    """Return the parametrizations of a layer's weight."""
    return cast("parametrize.ParametrizationList", layer.get_submodule("parametrizations.weight"))


def input_quantizer(layer: nn.Module) -> InputQuantizer:
    """Return the quantiser of a layer's input."""
    return cast("InputQuantizer", layer.get_submodule("input_quantizer"))
