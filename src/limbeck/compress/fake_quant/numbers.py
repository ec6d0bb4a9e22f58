"""Quantisation arithmetic: rounding to integer grids, with straight-through gradients.

A grid has a scale s, a zero point z and bounds l and h. A float x becomes the integer

    q = clamp(round(x / s) + z, l, h)    and then the float    (q − z) · s

with halves rounded to even, as ONNX's QuantizeLinear and DequantizeLinear do. Zero is on every
grid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALLEST = 1e-8
"""The smallest scale: a product of two, as a bias has, is still a normal float32."""

SPREAD = 1024
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

    Args:
        x: Any shape.
        step: s above 0, of a shape that broadcasts to x's.
        zero: z, integers in the shape of the scale; None is 0 everywhere.
        low: The lowest integer l.
        high: The highest integer h.
        share: Factor of the gradients of s and z.

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
        counted = x.float() / step
        inside = _clamped(counted, zero, low, high)
        if ctx.learned:
            ctx.save_for_backward(x, step, zero)
        elif ctx.needs_input_grad[0]:
            ctx.save_for_backward(inside == counted)
        return inside.round_().mul_(step).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.learned:
            (within,) = ctx.saved_tensors
            return torch.where(within, gradient, 0.0), None, None, None, None, None
        x, step, zero = ctx.saved_tensors
        counted = x.float() / step
        inside = _clamped(counted, zero, *ctx.bounds)
        within = inside == counted
        passed = torch.where(within, gradient, 0.0)
        slope = torch.where(within, inside.round().sub_(inside), inside)
        of_step = slope.mul_(gradient).sum_to_size(step.shape) * ctx.share
        of_zero = None
        if ctx.needs_input_grad[2]:
            of_zero = -step * (gradient - passed).sum_to_size(step.shape) * ctx.share
        return passed, of_step, of_zero, None, None, None


def _clamped(counted: Tensor, zero: Tensor | None, low: int, high: int) -> Tensor:
    if zero is None:
        return counted.clamp(low, high)
    return counted.clamp(low - zero, high - zero)


def straight_through(value: Tensor, instead: Tensor) -> Tensor:
    """Return another value exactly, with the gradient of the first (straight-through estimator).

    Example:
        >>> x = torch.tensor(0.4, requires_grad=True)
        >>> straight_through(x, x.round()).backward()
        >>> x.grad
        tensor(1.)
    """
    return instead.detach() + (value - value.detach())


def power_of_two(step: Tensor) -> Tensor:
    """Round up to a power of two, with a straight-through gradient.

    Example:
        >>> power_of_two(torch.tensor([0.3, 0.5, 3.0]))
        tensor([0.5000, 0.5000, 4.0000])

    Source: Jain et al. 2020 (TQT, arXiv:1903.08066).
    """
    mantissa, exponent = torch.frexp(step.detach())  # mantissa in [0.5, 1)
    exponent = exponent - (mantissa == 0.5).to(exponent.dtype)
    return straight_through(step, torch.ldexp(torch.ones_like(step), exponent))


def above_zero(step: Tensor) -> Tensor:
    """Clamp a learned scale above 0; below, its gradient still passes, so that it can recover."""
    return straight_through(step, step.clamp(min=SMALLEST))


def levelled(step: Tensor) -> Tensor:
    """Raise the scales of channels that are zero or nearly zero; 1 if all are zero.

    Example:
        >>> levelled(torch.tensor([0.0, 1.0, 64.0])).tolist(), levelled(torch.zeros(())).item()
        ([0.0625, 1.0, 64.0], 1.0)
    """
    largest = step.max()
    least = (largest / SPREAD).clamp(min=SMALLEST)
    return torch.where(largest > 0, torch.maximum(step, least), torch.ones_like(step))


def spread(
    least: Tensor, most: Tensor, low: int, high: int, *, symmetric: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the scale over a range, and the offset (lowest float) unless the grid is symmetric.

    Example:
        >>> spread(torch.tensor(-1.0), torch.tensor(2.0), 0, 15, symmetric=False)
        (tensor(0.2000), tensor(-1.))
        >>> spread(torch.tensor(-1.0), torch.tensor(2.0), -8, 7, symmetric=True)
        (tensor(0.2857), None)
    """
    if symmetric:
        return levelled(torch.maximum(-least, most) / high), None
    least, most = least.clamp(max=0.0), most.clamp(min=0.0)  # zero is on the grid
    return levelled((most - least) / (high - low)), least


def settled(
    step: Tensor, least: Tensor | None, low: int, high: int, *, powers_of_two: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the effective scale and the zero point; None if the grid is symmetric.

    The rounding of the zero point, l − least / s, has a straight-through gradient.

    Example:
        >>> settled(torch.tensor(0.2), torch.tensor(-1.0), 0, 15, powers_of_two=False)
        (tensor(0.2000), tensor(5.))
    """
    if powers_of_two:
        step = power_of_two(step)
    if least is None:
        return step, None
    exact = low - least / step
    return step, straight_through(exact, exact.round().clamp(low, high))
