"""Grids of whole numbers: rounding floats to them, and what gradient passes through the rounding.

A grid has a step s, a zero point z and bounds l and h. A float x becomes the whole number

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
"""The smallest step: the product of two, the step of a bias, is still a normal float32."""

SPREAD = 1024
"""How many times the largest step of a tensor's channels may be the smallest: a channel that is
zero, or nearly, would otherwise have a step in which its bias cannot be counted."""


def fake_quantize(
    x: Tensor, step: Tensor, zero: Tensor | None, low: int, high: int, *, share: float = 1.0
) -> Tensor:
    r"""Round floats to a grid, with gradients as if inside its bounds nothing were rounded.

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
        zero: z, whole numbers in the shape of the step; None is 0 everywhere.
        low: The lowest whole number l.
        high: The highest, h.
        share: What the gradients of s and z are multiplied by.

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
    """Few passes over the numbers: in training these are as many as there are activations."""

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
    """Give another value, exactly, with the gradient of the first.

    Example:
        >>> x = torch.tensor(0.4, requires_grad=True)
        >>> straight_through(x, x.round()).backward()
        >>> x.grad
        tensor(1.)
    """
    return instead.detach() + (value - value.detach())


def power_of_two(step: Tensor) -> Tensor:
    """Give the next power of two that is not smaller; the gradient passes straight through.

    Example:
        >>> power_of_two(torch.tensor([0.3, 0.5, 3.0]))
        tensor([0.5000, 0.5000, 4.0000])

    Source: Jain et al. 2020 (TQT, arXiv:1903.08066).
    """
    mantissa, exponent = torch.frexp(step.detach())  # mantissa in [0.5, 1)
    exponent = exponent - (mantissa == 0.5).to(exponent.dtype)
    return straight_through(step, torch.ldexp(torch.ones_like(step), exponent))


def above_zero(step: Tensor) -> Tensor:
    """Hold a learned step above 0; below, its gradient still passes, so that it can come back."""
    return straight_through(step, step.clamp(min=SMALLEST))


def levelled(step: Tensor) -> Tensor:
    """Raise the steps of channels that are zero or nearly; 1 if all are zero.

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
    """Spread a grid over a range: give the step, and the lowest float unless zero is in the middle.

    Example:
        >>> spread(torch.tensor(-1.0), torch.tensor(2.0), 0, 15, symmetric=False)
        (tensor(0.2000), tensor(-1.))
        >>> spread(torch.tensor(-1.0), torch.tensor(2.0), -8, 7, symmetric=True)
        (tensor(0.2857), None)
    """
    if symmetric:
        return levelled(torch.maximum(-least, most) / high), None
    least, most = least.clamp(max=0.0), most.clamp(min=0.0)  # zero is inside
    return levelled((most - least) / (high - low)), least


def settled(
    step: Tensor, least: Tensor | None, low: int, high: int, *, powers_of_two: bool
) -> tuple[Tensor, Tensor | None]:
    """Give the step as it is used, and the zero point; None where zero is in the middle.

    The gradient passes as if the zero point, l − least / s, were not rounded.

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
