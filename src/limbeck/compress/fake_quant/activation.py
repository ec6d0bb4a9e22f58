"""Fake quantisation of layer inputs (activations), as a child module."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from limbeck.compress.fake_quant.numbers import above_zero, fake_quantize, settled, spread
from limbeck.compress.fake_quant.observe import Seen
from limbeck.export.quantized import Rounding, RoundsInput

MOMENTUM = 0.01
"""Momentum of the moving average of the range in training."""


class InputQuantizer(nn.Module, RoundsInput):
    r"""Uniform activation quantiser of 4 to 8 bits, per tensor.

    The grid spans the range seen in calibration; in training the range is updated by a moving
    average, in evaluation it is fixed. If learned, the scale and the lowest float (the offset)
    start there and are trained, with gradients divided by √(n Q), for n numbers per sample and Q
    integers above 0. A symmetric grid has no offset, and its learned scale starts at 2 E|x| / √Q.

    Args:
        bits: 4 to 8.
        symmetric: Whether zero is in the middle of the grid, without a zero point.
        learned: Whether the scale (and the offset) are parameters.
        powers_of_two: Round the scale up to a power of two.

    Example:
        >>> rounded = InputQuantizer(bits=4)
        >>> rounded.fit(Seen(least=-1.0, most=2.0, mean=0.5))
        >>> rounded.eval()(torch.tensor([-5.0, 0.29, 5.0]))
        tensor([-1.0000,  0.2000,  2.0000])

    Source: Jacob et al. 2018 (arXiv:1712.05877); learned, Bhalgat et al. 2020 (LSQ+).
    """

    least: Tensor
    most: Tensor

    def __init__(
        self,
        *,
        bits: int,
        symmetric: bool = False,
        learned: bool = False,
        powers_of_two: bool = False,
    ) -> None:
        super().__init__()
        half = 1 << (bits - 1)
        self.low, self.high = (-half, half - 1) if symmetric else (0, 2 * half - 1)
        self.symmetric, self.powers_of_two = symmetric, powers_of_two
        self.step = nn.Parameter(torch.ones(())) if learned else None
        self.offset = nn.Parameter(torch.zeros(())) if learned and not symmetric else None
        if not learned:
            self.register_buffer("least", torch.zeros(()))
            self.register_buffer("most", torch.ones(()))

    @torch.no_grad()
    def fit(self, seen: Seen) -> None:
        """Initialise the range from calibration statistics."""
        least, most = torch.tensor(seen.least), torch.tensor(seen.most)
        if self.step is None:
            self.least.copy_(least)
            self.most.copy_(most)
            return
        step, lowest = spread(least, most, self.low, self.high, symmetric=self.symmetric)
        if self.offset is not None and lowest is not None:
            self.offset.copy_(lowest)
        elif seen.mean > 0:
            step = torch.tensor(2 * seen.mean / math.sqrt(self.high))
        self.step.copy_(step)

    def grid(self) -> tuple[Tensor, Tensor | None]:
        """Return the scale and the zero point, one number each; the zero point is None where 0."""
        if self.step is None:
            step, lowest = spread(
                self.least, self.most, self.low, self.high, symmetric=self.symmetric
            )
        else:
            step, lowest = above_zero(self.step), self.offset
        return settled(step, lowest, self.low, self.high, powers_of_two=self.powers_of_two)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input, rounded to the grid."""
        if self.training and self.step is None:
            self._follow(x.detach())
        step, zero = self.grid()
        share = 1 / math.sqrt(max(1, x[0].numel()) * self.high) if self.step is not None else 1.0
        return fake_quantize(x, step, zero, self.low, self.high, share=share)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        least, most = x.aminmax()
        self.least.lerp_(least.float(), MOMENTUM)
        self.most.lerp_(most.float(), MOMENTUM)

    @torch.no_grad()
    def as_rounding(self) -> Rounding:
        """Return the same rounding with unsigned integers, as in uint8."""
        step, zero = self.grid()
        raised = torch.full_like(step, -self.low) if zero is None else zero
        return Rounding(step.clone(), raised.to(torch.uint8), self.high - self.low)
