"""Biases as whole numbers of the steps in which products of inputs and weights are counted."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.fake_quant.activation import InputQuantizer
from limbeck.compress.fake_quant.numbers import fake_quantize
from limbeck.export.quantized import OnGrid

LARGEST = 2**30
"""Whole numbers of a bias stay within this, so that products can be added to it in 32 bits."""


class BiasQuantizer(nn.Module, OnGrid):
    """A bias rounded to multiples of (input step) · (weight step), of each channel.

    Integer kernels add it to the sum of products in 32 bits, and ONNX Runtime rounds float biases
    to just these multiples when it chooses such a kernel; so training does it too.

    Args:
        layer: Whose `weight` and inputs are quantised.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = (layer,)  # no child: the layer holds this module

    @torch.no_grad()
    def grid(self, original: Tensor) -> tuple[Tensor, None]:
        """Give the step, `[channels]` or one number; the zero point is 0."""
        (layer,) = self._layer
        tensor = weight_chain(layer).original
        for link in weight_chain(layer):
            if isinstance(link, OnGrid):
                return input_quantizer(layer).grid()[0] * link.grid(tensor)[0], None
            tensor = link(tensor)
        raise TypeError("the layer's weight is not quantised")

    def forward(self, bias: Tensor) -> Tensor:
        """Give the bias on its grid."""
        return fake_quantize(bias, self.grid(bias)[0], None, -LARGEST, LARGEST)

    def overflows(self, bias: Tensor) -> bool:
        """Tell whether a bias is beyond what can be counted."""
        return bool((bias.abs() > LARGEST * self.grid(bias)[0]).any())


def weight_chain(layer: nn.Module) -> parametrize.ParametrizationList:
    """Give what is put over a layer's weight."""
    return cast("parametrize.ParametrizationList", layer.get_submodule("parametrizations.weight"))


def input_quantizer(layer: nn.Module) -> InputQuantizer:
    """Give what rounds a layer's input."""
    return cast("InputQuantizer", layer.get_submodule("input_quantizer"))
