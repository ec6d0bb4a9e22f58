"""What flows into a layer, in few bits: a child module that rounds it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from limbeck.compress.fake_quant.numbers import above_zero, fake_quantize, settled, spread
from limbeck.compress.fake_quant.observe import Seen
from limbeck.export.quantized import Rounding, RoundsInput

MOMENTUM = 0.01
"""How fast the range follows what is seen in training."""


class InputQuantizer(nn.Module, RoundsInput):
    r"""Inputs on an even grid of 4 to 8 bits, one step for all.

    The grid spreads over the range seen in calibration; in training the range follows what comes in
    by a moving average, in evaluation it stays. Or the step and the lowest float (the offset) are
    learned from there on, their gradients divided by √(n Q), for n numbers a sample and Q whole
    numbers above 0. A symmetric grid has no offset, and its learned step begins as 2 E|x| / √Q.

    Args:
        bits: 4 to 8.
        symmetric: Zero in the middle, or a zero point.
        learned: Whether the step (and the offset) are parameters.
        powers_of_two: The step is rounded up to a power of two.

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
        """Begin from what was seen in calibration."""
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
        """Give the step and the zero point, one number each; None where it is 0."""
        if self.step is None:
            step, lowest = spread(
                self.least, self.most, self.low, self.high, symmetric=self.symmetric
            )
        else:
            step, lowest = above_zero(self.step), self.offset
        return settled(step, lowest, self.low, self.high, powers_of_two=self.powers_of_two)

    def forward(self, x: Tensor) -> Tensor:
        """Give the input on its grid."""
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
        """Give the same rounding with whole numbers from 0, as uint8 has them."""
        step, zero = self.grid()
        raised = torch.full_like(step, -self.low) if zero is None else zero
        return Rounding(step.clone(), raised.to(torch.uint8), self.high - self.low)
