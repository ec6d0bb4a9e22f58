"""Ternary and binary weight quantisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.compress.fake_quant.numbers import above_zero, levelled, power_of_two, straight_through
from limbeck.compress.fake_quant.weight import along, per_step
from limbeck.export.quantized import OnGrid

THRESHOLD = 0.7
"""Share of the mean magnitude below which weights become zero: near optimal for normal and for
uniform weights.
"""


class TernaryWeight(nn.Module, OnGrid):
    r"""Ternary weights: −α, 0 and α.

    $$
    \hat w = \alpha \, \mathrm{sign}(w) \, [|w| > \Delta] \qquad
    \Delta = 0.7\, E|w| \qquad \alpha = E\big[|w| : |w| > \Delta\big]
    $$

    Δ and α are computed from the weights in each forward pass, and the gradient of ŵ passes to w
    (straight-through). If learned, they start there and are trained through α · round(clamp(w / 2Δ,
    −1, 1)), with a straight-through gradient of the rounding.

    Args:
        shape: Shape of the weight; the first axis is the channel axis.
        per_channel: One Δ and α per channel instead of one per tensor, as in the paper.
        learned: Whether Δ and α are parameters.
        powers_of_two: α is rounded up to a power of two.

    Example:
        >>> TernaryWeight((1, 4))(torch.tensor([[0.1, -1.0, 0.8, 0.0]]))
        tensor([[ 0.0000, -0.9000,  0.9000,  0.0000]])

    Source: Li, Zhang and Liu 2016 (TWN, arXiv:1605.04711); learned, in the manner of LSQ.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        per_channel: bool = True,
        learned: bool = False,
        powers_of_two: bool = False,
    ) -> None:
        super().__init__()
        self.per_channel, self.powers_of_two = per_channel, powers_of_two
        fresh = torch.ones(shape[0] if per_channel else ())
        self.step = nn.Parameter(fresh) if learned else None
        self.threshold = nn.Parameter(fresh / 2) if learned else None

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Initialise learned parameters from a weight."""
        if self.step is not None and self.threshold is not None:
            threshold, step = self._found(weight)
            self.threshold.copy_(levelled(threshold))
            self.step.copy_(step)

    def grid(self, original: Tensor) -> tuple[Tensor, None]:
        """Return α, `[channels]` or one number; the zero point is 0."""
        step = self._found(original)[1] if self.step is None else above_zero(self.step)
        return power_of_two(step) if self.powers_of_two else step, None

    @torch.no_grad()
    def _found(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        size = per_step(weight, self.per_channel).abs()
        threshold = THRESHOLD * size.mean(1, keepdim=True)
        kept = size > threshold
        mean = (size * kept).sum(1) / kept.sum(1).clamp(min=1)
        shape = weight.shape[:1] if self.per_channel else ()
        return threshold.view(shape), levelled(mean).view(shape)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the ternary weight."""
        step = along(self.grid(weight)[0], weight)
        if self.threshold is None:
            kept = weight.abs() > along(self._found(weight)[0], weight)
            return straight_through(weight, step * weight.sign() * kept)
        counted = (weight / (2 * along(above_zero(self.threshold), weight))).clamp(-1, 1)
        return step * straight_through(counted, counted.round())


class BinaryWeight(nn.Module, OnGrid):
    r"""Binary weights, ŵ = sign(w) · E|w|; the gradient of ŵ passes to w.

    A masked weight stays zero and is excluded from the mean.

    Args:
        shape: Shape of the weight; the first axis is the channel axis.
        per_channel: One mean per channel, as in the paper, instead of one per tensor.
        powers_of_two: The mean is rounded up to a power of two.

    Example:
        >>> BinaryWeight((1, 3))(torch.tensor([[0.1, -0.5, 0.3]]))
        tensor([[ 0.3000, -0.3000,  0.3000]])

    Source: Rastegari et al. 2016 (binary weights of XNOR-Net, arXiv:1603.05279).
    """

    def __init__(
        self, shape: Sequence[int], *, per_channel: bool = True, powers_of_two: bool = False
    ) -> None:
        super().__init__()
        self.per_channel, self.powers_of_two = per_channel, powers_of_two

    def fit(self, weight: Tensor) -> None:
        """Do nothing: this quantiser has no learned parameters."""

    @torch.no_grad()
    def grid(self, original: Tensor) -> tuple[Tensor, None]:
        """Return the mean, `[channels]` or one number; the zero point is 0."""
        size = per_step(original, self.per_channel).abs()
        mean = size.sum(1) / size.count_nonzero(1).clamp(min=1)
        step = levelled(mean).view(original.shape[:1] if self.per_channel else ())
        return power_of_two(step) if self.powers_of_two else step, None

    def forward(self, weight: Tensor) -> Tensor:
        """Return the binary weight."""
        step = along(self.grid(weight)[0], weight)
        return straight_through(weight, step * weight.sign())
