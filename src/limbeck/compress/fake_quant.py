"""Quantisation arithmetic: rounding to integer grids, with straight-through gradients.

A grid has a scale s, a zero point z and bounds l and h. A float x becomes the integer

    q = clamp(round(x / s) + z, l, h)    and then the float    (q − z) · s

with halves rounded to even, as ONNX's QuantizeLinear and DequantizeLinear do. Zero is on every
grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from limbeck.export.quantized import OnGrid, Rounding, RoundsInput

SMALLEST = 1e-8
"""The smallest scale: a product of two, as a bias has, is still a normal float32."""

MAX_RATIO = 1024
"""Largest ratio of the scales of a tensor's channels: a channel that is nearly zero would otherwise
have a scale at which its bias exceeds the int32 range.
"""


def fake_quantize(
    x: Tensor, step: Tensor, zero: Tensor | None, low: int, high: int, *, share: float = 1.0
) -> Tensor:
    r"""Round floats to a grid, with straight-through gradients inside its bounds.

    With v = x / s, and bounds counted from zero, l' = l − z and h' = h − z:

    $$
    \frac{\partial \hat x}{\partial x} = [l' \le v \le h'] \qquad
    \frac{\partial \hat x}{\partial s} = \begin{cases} \mathrm{round}(v) - v & l' \le v \le h' \\
    l' \text{ or } h' & \text{below or above} \end{cases} \qquad
    \frac{\partial \hat x}{\partial z} = -s\,[v < l' \text{ or } v > h']
    $$

    The scale s = `step` > 0 and the zero point z = `zero` (None is 0) broadcast to x; l = `low` and
    h = `high`. The gradients of s and z are multiplied by `share`.

    Example:
        >>> x = torch.tensor([-3.0, 0.24, 0.25, 0.75, 9.0])
        >>> fake_quantize(x, torch.tensor(0.5), None, -2, 1)
        tensor([-1.0000,  0.0000,  0.0000,  0.5000,  0.5000])

    Source: Esser et al. 2020 (LSQ, arXiv:1902.08153); with a zero point Bhalgat et al. 2020 (LSQ+,
    arXiv:2004.09576).
    """
    rounded: Tensor = _FakeQuantize.apply(x, step, zero, low, high, share)
    return rounded


class _FakeQuantize(torch.autograd.Function):
    """Fused fake quantisation with few passes over memory, since activations are large."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, zero: Tensor | None, low: int, high: int, share: float
    ) -> Tensor:
        ctx.bounds, ctx.share = (low, high), share
        ctx.learned = any(ctx.needs_input_grad[1:3])
        scaled = x.float() / step
        clamped = _clamped(scaled, zero, low, high)
        if ctx.learned:
            ctx.save_for_backward(x, step, zero)
        elif ctx.needs_input_grad[0]:
            ctx.save_for_backward(clamped == scaled)
        return clamped.round_().mul_(step).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.learned:
            (within,) = ctx.saved_tensors
            return torch.where(within, gradient, 0.0), None, None, None, None, None
        x, step, zero = ctx.saved_tensors
        scaled = x.float() / step
        clamped = _clamped(scaled, zero, *ctx.bounds)
        within = clamped == scaled
        grad_x = torch.where(within, gradient, 0.0)
        slope = torch.where(within, clamped.round().sub_(clamped), clamped)
        grad_step = slope.mul_(gradient).sum_to_size(step.shape) * ctx.share
        grad_zero = None
        if ctx.needs_input_grad[2]:
            grad_zero = -step * (gradient - grad_x).sum_to_size(step.shape) * ctx.share
        return grad_x, grad_step, grad_zero, None, None, None


def _clamped(scaled: Tensor, zero: Tensor | None, low: int, high: int) -> Tensor:
    if zero is None:
        return scaled.clamp(low, high)
    return scaled.clamp(low - zero, high - zero)


def straight_through(value: Tensor, instead: Tensor) -> Tensor:
    """Return `instead` exactly, with the gradient of `value` (straight-through estimator)."""
    return instead.detach() + (value - value.detach())


def power_of_two(step: Tensor) -> Tensor:
    """Round up to a power of two, with a straight-through gradient.

    Source: Jain et al. 2020 (TQT, arXiv:1903.08066).
    """
    mantissa, exponent = torch.frexp(step.detach())  # mantissa in [0.5, 1)
    exponent = exponent - (mantissa == 0.5).to(exponent.dtype)
    return straight_through(step, torch.ldexp(torch.ones_like(step), exponent))


def positive(step: Tensor) -> Tensor:
    """Clamp a learned scale above 0; below, its gradient still passes, so that it can recover."""
    return straight_through(step, step.clamp(min=SMALLEST))


def limit_ratio(step: Tensor) -> Tensor:
    """Raise the scales of channels that are zero or nearly zero; 1 if all are zero."""
    largest = step.max()
    least = (largest / MAX_RATIO).clamp(min=SMALLEST)
    return torch.where(largest > 0, torch.maximum(step, least), torch.ones_like(step))


class UniformGrid(nn.Module):
    """Base of the uniform quantisers: integers from `low` to `high`.

    A symmetric grid has zero in the middle, without a zero point. If learned, the scale and, unless
    symmetric, the lowest float (the offset) are parameters, `[channels]` or one number. With
    `powers_of_two`, scales are rounded up to these.
    """

    low: int
    high: int
    symmetric: bool
    powers_of_two: bool
    step: nn.Parameter | None
    offset: nn.Parameter | None

    def scale_of(self, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the scale over a range, and the offset unless the grid is symmetric."""
        if self.symmetric:
            return limit_ratio(torch.maximum(-least, most) / self.high), None
        least, most = least.clamp(max=0.0), most.clamp(min=0.0)  # zero is on the grid
        return limit_ratio((most - least) / (self.high - self.low)), least

    def grid_of(self, step: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the effective scale and the zero point; None if the grid is symmetric.

        The rounding of the zero point, l − offset / s, has a straight-through gradient.
        """
        step = power_of_two(step) if self.powers_of_two else step
        if offset is None:
            return step, None
        exact = self.low - offset / step
        return step, straight_through(exact, exact.round().clamp(self.low, self.high))


@dataclass(frozen=True)
class InputStatistics:
    """The minimum and maximum of a layer's input, and its mean magnitude E|x|."""

    least: float
    most: float
    mean: float


MOMENTUM = 0.01
"""Momentum of the moving average of the range in training."""


class InputQuantizer(UniformGrid, RoundsInput):
    r"""Uniform activation quantiser of 4 to 8 bits, per tensor.

    The grid spans the range of the calibration samples; in training the range is updated by a
    moving average, in evaluation it is fixed. If learned, the scale and the offset start there and
    are trained, with gradients divided by √(n Q), for n numbers per sample and Q integers above 0.
    The learned scale of a symmetric grid starts at 2 E|x| / √Q.

    Example:
        >>> rounded = InputQuantizer(bits=4)
        >>> rounded.fit(InputStatistics(least=-1.0, most=2.0, mean=0.5))
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
    def fit(self, statistics: InputStatistics) -> None:
        """Initialise the range from calibration statistics."""
        least, most = torch.tensor(statistics.least), torch.tensor(statistics.most)
        if self.step is None:
            self.least.copy_(least)
            self.most.copy_(most)
            return
        step, offset = self.scale_of(least, most)
        if self.offset is not None and offset is not None:
            self.offset.copy_(offset)
        elif statistics.mean > 0:
            step = torch.tensor(2 * statistics.mean / math.sqrt(self.high))
        self.step.copy_(step)

    def grid(self) -> tuple[Tensor, Tensor | None]:
        """Return the scale and the zero point, one number each; the zero point is None where 0."""
        if self.step is None:
            return self.grid_of(*self.scale_of(self.least, self.most))
        return self.grid_of(positive(self.step), self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input, rounded to the grid."""
        if self.training and self.step is None:
            with torch.no_grad():
                least, most = x.detach().aminmax()
                self.least.lerp_(least.float(), MOMENTUM)
                self.most.lerp_(most.float(), MOMENTUM)
        step, zero = self.grid()
        share = 1 / math.sqrt(max(1, x[0].numel()) * self.high) if self.step is not None else 1.0
        return fake_quantize(x, step, zero, self.low, self.high, share=share)

    @torch.no_grad()
    def as_rounding(self) -> Rounding:
        """Return the same rounding with unsigned integers, as in uint8."""
        step, zero = self.grid()
        raised = torch.full_like(step, -self.low) if zero is None else zero
        return Rounding(step.clone(), raised.to(torch.uint8), self.high - self.low)


class WeightQuantizer(nn.Module, OnGrid):
    """Base of the weight quantisers, which take the `shape` of the weight (first axis: channels).

    Args:
        per_channel: One scale per channel instead of one per tensor.
        powers_of_two: Round scales up to powers of two.
    """

    def __init__(self, *, per_channel: bool, powers_of_two: bool) -> None:
        super().__init__()
        self.per_channel, self.powers_of_two = per_channel, powers_of_two

    def fit(self, weight: Tensor) -> None:
        """Initialise learned parameters from a weight, if there are any."""

    def _rows(self, weight: Tensor) -> Tensor:
        """Reshape a weight to `[scales, weights]`, one row per scale."""
        return weight.flatten(1) if self.per_channel else weight.reshape(1, -1)

    def _scales(self, rows: Tensor) -> Tensor:
        """Reshape one number per row to `[channels]`, or to a scalar."""
        return rows.view(-1 if self.per_channel else ())


def expand(scales: Tensor, weight: Tensor) -> Tensor:
    """Reshape one number per channel, or a single one, to broadcast over a weight."""
    return scales.view(-1, *[1] * (weight.ndim - 1)) if scales.ndim else scales


class UniformWeight(WeightQuantizer, UniformGrid):
    r"""Uniform weight quantiser of 2 to 8 bits.

    With integers from −2^(b−1) to 2^(b−1) − 1 = Q, the scale is max|w| / Q, computed from the
    weights in each forward pass; if learned, it starts at 2 E|w| / √Q, and its gradient is divided
    by √(n Q) for n weights per scale. An affine grid (not `symmetric`) spans the range of the
    weights. `reduce_range` uses 7 of 8 bits: on processors without VNNI, ONNX Runtime's 8-bit
    products can overflow.

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
        super().__init__(per_channel=per_channel, powers_of_two=powers_of_two)
        used = 7 if bits == 8 and reduce_range else bits
        self.low, self.high = -(2 ** (used - 1)), 2 ** (used - 1) - 1
        self.symmetric = symmetric
        self.share = 1 / math.sqrt(math.prod(shape[1:] if per_channel else shape) * self.high)
        ones = torch.ones(shape[0] if per_channel else ())
        self.step = nn.Parameter(ones) if learned else None
        self.offset = nn.Parameter(-ones) if learned and not symmetric else None

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Initialise learned parameters from a weight."""
        if self.step is None:
            return
        step, least = self._range(weight)
        if least is None:
            mean = self._rows(weight).abs().mean(1)
            step = limit_ratio(2 * mean / math.sqrt(self.high)).view_as(self.step)
        elif self.offset is not None:
            self.offset.copy_(least)
        self.step.copy_(step)

    def grid(self, original: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the scale and the zero point, `[channels]` or one number; None where it is 0."""
        if self.step is None:
            return self.grid_of(*self._range(original.detach()))
        return self.grid_of(positive(self.step), self.offset)

    def _range(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        least, most = map(self._scales, self._rows(weight).aminmax(dim=1))
        return self.scale_of(least, most)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight, rounded to the grid."""
        step, zero = self.grid(weight)
        zero = None if zero is None else expand(zero, weight)
        step = expand(step, weight)
        return fake_quantize(weight, step, zero, self.low, self.high, share=self.share)


THRESHOLD = 0.7
"""Share of the mean magnitude below which weights become zero: near optimal for normal and for
uniform weights.
"""


class TernaryWeight(WeightQuantizer):
    r"""Ternary weights: −α, 0 and α.

    $$
    \hat w = \alpha \, \mathrm{sign}(w) \, [|w| > \Delta] \qquad
    \Delta = 0.7\, E|w| \qquad \alpha = E\big[|w| : |w| > \Delta\big]
    $$

    Δ and α are computed from the weights in each forward pass, per channel or, as in the paper, per
    tensor, and the gradient of ŵ passes to w (straight-through). If learned, they start there and
    are trained through α · round(clamp(w / 2Δ, −1, 1)), with a straight-through gradient of the
    rounding.

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
        super().__init__(per_channel=per_channel, powers_of_two=powers_of_two)
        ones = torch.ones(shape[0] if per_channel else ())
        self.step = nn.Parameter(ones) if learned else None
        self.threshold = nn.Parameter(ones / 2) if learned else None

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Initialise learned parameters from a weight."""
        if self.step is not None and self.threshold is not None:
            threshold, step = self._closed_form(weight)
            self.threshold.copy_(limit_ratio(threshold))
            self.step.copy_(step)

    def grid(self, original: Tensor) -> tuple[Tensor, None]:
        """Return α, `[channels]` or one number; the zero point is 0."""
        step = self._closed_form(original)[1] if self.step is None else positive(self.step)
        return power_of_two(step) if self.powers_of_two else step, None

    @torch.no_grad()
    def _closed_form(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return Δ and α."""
        size = self._rows(weight).abs()
        threshold = THRESHOLD * size.mean(1, keepdim=True)
        kept = size > threshold
        mean = (size * kept).sum(1) / kept.sum(1).clamp(min=1)
        return self._scales(threshold), self._scales(limit_ratio(mean))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the ternary weight."""
        step = expand(self.grid(weight)[0], weight)
        if self.threshold is None:
            kept = weight.abs() > expand(self._closed_form(weight)[0], weight)
            return straight_through(weight, step * weight.sign() * kept)
        scaled = (weight / (2 * expand(positive(self.threshold), weight))).clamp(-1, 1)
        return step * straight_through(scaled, scaled.round())


class BinaryWeight(WeightQuantizer):
    r"""Binary weights, ŵ = sign(w) · E|w|; the gradient of ŵ passes to w.

    A masked weight stays zero and is excluded from the mean, which is taken per channel, as in the
    paper, or per tensor.

    Example:
        >>> BinaryWeight((1, 3))(torch.tensor([[0.1, -0.5, 0.3]]))
        tensor([[ 0.3000, -0.3000,  0.3000]])

    Source: Rastegari et al. 2016 (binary weights of XNOR-Net, arXiv:1603.05279).
    """

    def __init__(
        self, shape: Sequence[int], *, per_channel: bool = True, powers_of_two: bool = False
    ) -> None:
        super().__init__(per_channel=per_channel, powers_of_two=powers_of_two)

    @torch.no_grad()
    def grid(self, original: Tensor) -> tuple[Tensor, None]:
        """Return the mean, `[channels]` or one number; the zero point is 0."""
        size = self._rows(original).abs()
        mean = size.sum(1) / size.count_nonzero(1).clamp(min=1)
        step = self._scales(limit_ratio(mean))
        return power_of_two(step) if self.powers_of_two else step, None

    def forward(self, weight: Tensor) -> Tensor:
        """Return the binary weight."""
        step = expand(self.grid(weight)[0], weight)
        return straight_through(weight, step * weight.sign())
