"""Uniform weight quantisation, as a parametrization over the trainable float weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.compress.fake_quant.numbers import (
    above_zero,
    fake_quantize,
    levelled,
    settled,
    spread,
)
from limbeck.export.quantized import OnGrid


class UniformWeight(nn.Module, OnGrid):
    r"""Uniform weight quantiser of 2 to 8 bits.

    With integers from −2^(b−1) to 2^(b−1) − 1 = Q, the scale is max|w| / Q, computed from the
    weights in each forward pass; if learned, it starts at 2 E|w| / √Q, and its gradient is divided
    by √(n Q) for n weights per scale. An affine grid spans the range of the weights and has a zero
    point; if learned, so is its lowest float, the offset.

    Args:
        shape: Shape of the weight; the first axis is the channel axis.
        bits: 2 to 8.
        per_channel: One scale per channel instead of one per tensor.
        symmetric: Whether zero is in the middle of the grid, without a zero point.
        learned: Whether the scale (and the offset) are parameters.
        powers_of_two: Round scales up to powers of two.
        reduce_range: Use 7 of 8 bits: on processors without VNNI, ONNX Runtime's 8-bit products can
            overflow.

    Example:
        >>> ternary = UniformWeight((2, 2), bits=2, per_channel=False)
        >>> ternary(torch.tensor([[1.0, -1.0], [0.4, 0.0]]))
        tensor([[ 1., -1.],
                [ 0.,  0.]])

    Source: Jacob et al. 2018 (arXiv:1712.05877); learned, Esser et al. 2020 (LSQ) and Bhalgat et
    al. 2020 (LSQ+).
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        bits: int,
        per_channel: bool = True,
        symmetric: bool = True,
        learned: bool = False,
        powers_of_two: bool = False,
        reduce_range: bool = True,
    ) -> None:
        super().__init__()
        used = 7 if bits == 8 and reduce_range else bits
        self.low, self.high = -(2 ** (used - 1)), 2 ** (used - 1) - 1
        self.per_channel, self.symmetric = per_channel, symmetric
        self.powers_of_two = powers_of_two
        self.share = 1 / math.sqrt(math.prod(shape[1:] if per_channel else shape) * self.high)
        fresh = torch.ones(shape[0] if per_channel else ())
        self.step = nn.Parameter(fresh) if learned else None
        self.offset = nn.Parameter(-fresh) if learned and not symmetric else None

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Initialise learned parameters from a weight."""
        if self.step is None:
            return
        step, least = self._spread(weight)
        if least is None:
            mean = per_step(weight, self.per_channel).abs().mean(1)
            step = levelled(2 * mean / math.sqrt(self.high)).view_as(self.step)
        elif self.offset is not None:
            self.offset.copy_(least)
        self.step.copy_(step)

    def grid(self, original: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the scale and the zero point, `[channels]` or one number; None where it is 0."""
        if self.step is None:
            step, least = self._spread(original.detach())
        else:
            step, least = above_zero(self.step), self.offset
        return settled(step, least, self.low, self.high, powers_of_two=self.powers_of_two)

    def _spread(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        least, most = per_step(weight, self.per_channel).aminmax(dim=1)
        shape = weight.shape[:1] if self.per_channel else ()
        low, high = self.low, self.high
        return spread(least.view(shape), most.view(shape), low, high, symmetric=self.symmetric)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight, rounded to the grid."""
        step, zero = self.grid(weight)
        zero = None if zero is None else along(zero, weight)
        step = along(step, weight)
        return fake_quantize(weight, step, zero, self.low, self.high, share=self.share)


def per_step(weight: Tensor, per_channel: bool) -> Tensor:
    """Reshape a weight to `[scales, weights]`, one row per scale."""
    return weight.flatten(1) if per_channel else weight.reshape(1, -1)


def along(numbers: Tensor, weight: Tensor) -> Tensor:
    """Reshape one number per channel, or a single one, to broadcast over a weight."""
    return numbers.view(-1, *[1] * (weight.ndim - 1)) if numbers.ndim else numbers
