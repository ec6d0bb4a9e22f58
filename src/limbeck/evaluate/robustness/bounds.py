"""Interval arithmetic, with bounds on float32 rounding errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import LimbeckError

UNIT = 2.0**-24
"""The largest relative error of one rounding in float32 (unit roundoff)."""


class NoBoundsError(LimbeckError):
    """A part of a model that has no bound propagation rule."""


@dataclass(frozen=True)
class Bounds:
    """Elementwise bounds `low` and `high`, of equal shape `[n, ...]`, in float64."""

    low: Tensor
    high: Tensor

    @property
    def centre(self) -> Tensor:
        """Return the midpoint."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> Tensor:
        """Return half the width."""
        return (self.high - self.low) / 2

    @property
    def size(self) -> Tensor:
        """Return the largest possible absolute value per element."""
        return self.low.abs().maximum(self.high.abs())

    def rounded(self, terms: float) -> Bounds:
        r"""Return bounds widened by `terms` roundings in float32.

        $$|\mathrm{fl}(x) - x| \le k\,2^{-24}\,|x|$$

        Such bounds hold for the model in exact arithmetic and for float32 in any order of
        summation; the error of the float64 used here is a thousand millionth of that.

        Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1.
        """
        slack = terms * UNIT * self.size
        return Bounds(self.low - slack, self.high + slack)


Rule = Callable[[Any, Bounds], Bounds]
ROUNDINGS = 8
"""Number of roundings allowed for a smooth function of one number."""


def affine(
    apply: Callable[[Tensor, Tensor], Tensor], weight: Tensor, bias: Tensor | None, x: Bounds
) -> Bounds:
    r"""Compute the bounds of a linear map, by centre and radius.

    $$Wc + b \pm |W|\,(r + k u\,(|c| + r)) + k u |b|$$

    with u the unit roundoff of float32 and k the number of terms of each sum. `apply` applies a
    weight, of one row per output, to inputs; the bias broadcasts to the outputs.

    Source: Gowal et al. 2018 (arXiv:1810.12715), equation 6.
    """
    weight = weight.double()
    slack = (weight[0].numel() + 3) * UNIT
    radius = x.radius + slack * (x.centre.abs() + x.radius)
    middle, width = apply(x.centre, weight), apply(radius, weight.abs())
    if bias is not None:
        middle, width = middle + bias.double(), width + slack * bias.double().abs()
    return Bounds(middle - width, middle + width)


def _linear(module: nn.Linear, x: Bounds) -> Bounds:
    return affine(F.linear, module.weight, module.bias, x)


def _convolution(module: nn.Conv1d | nn.Conv2d, x: Bounds) -> Bounds:
    if module.padding_mode != "zeros":
        raise NoBoundsError(f"padding_mode={module.padding_mode!r}")
    convolve: Any = partial(
        F.conv2d if isinstance(module, nn.Conv2d) else F.conv1d,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
    )
    bias = module.bias
    if bias is not None:
        bias = bias.view(-1, *(1 for _ in module.kernel_size))
    return affine(convolve, module.weight, bias, x)


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, x: Bounds) -> Bounds:
    mean, variance = module.running_mean, module.running_var
    if module.training or mean is None or variance is None:
        raise NoBoundsError("it takes its statistics from the batch")
    shape = (1, -1, *(1 for _ in x.low.shape[2:]))
    scale = (variance.double() + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight.double()
    shift = -mean.double() * scale
    bias = torch.zeros_like(shift) if module.bias is None else module.bias.double()
    scale, shift, bias = (values.view(shape) for values in (scale, shift, bias))
    middle = x.centre * scale + shift + bias
    size = x.size * scale.abs() + shift.abs() + bias.abs()
    width = x.radius * scale.abs() + ROUNDINGS * UNIT * size
    return Bounds(middle - width, middle + width)


def monotone(function: Callable[[Tensor], Tensor], x: Bounds) -> Bounds:
    """Compute the bounds of a nondecreasing function."""
    # Cloned, since a module may work in place.
    low, high = function(x.low.clone()), function(x.high.clone())
    if not isinstance(low, Tensor):
        raise NoBoundsError("it returns more than one tensor")
    return Bounds(low, high)


def unimodal(function: Callable[[Tensor], Tensor], lowest: float, x: Bounds) -> Bounds:
    """Compute the bounds of a unimodal function: decreasing until `lowest`, then increasing."""
    at = x.low.clamp(min=lowest).minimum(x.high)
    return Bounds(function(at), function(x.low).maximum(function(x.high)))


def averaged(function: Callable[[Tensor], Tensor], x: Bounds) -> Bounds:
    """Compute the bounds of means over a part of a sample: monotone, one rounding per term."""
    found = monotone(function, x)
    terms = x.low[0].numel() + ROUNDINGS
    largest = x.size.flatten(1).amax(dim=1).view(-1, *(1 for _ in found.low.shape[1:]))
    slack = terms * UNIT * largest
    return Bounds(found.low - slack, found.high + slack)


def smooth(function: Callable[[Tensor], Tensor], x: Bounds) -> Bounds:
    """Compute the bounds of a monotone function whose own computation rounds."""
    return _rounded(monotone(function, x), x)


def _rounded(found: Bounds, x: Bounds) -> Bounds:
    # An activation's size is at most that of its input or 1, to which its error is relative.
    slack = ROUNDINGS * UNIT * x.size.clamp(min=1)
    return Bounds(found.low - slack, found.high + slack)


def _leaky(module: nn.LeakyReLU, x: Bounds) -> Bounds:
    if module.negative_slope < 0:
        raise NoBoundsError("its slope is negative")
    return monotone(module, x).rounded(1)


def dropout(x: Bounds, p: float = 0.5, training: bool = True, inplace: bool = False) -> Bounds:
    """Return the bounds unchanged, or raise in train mode."""
    if training:
        raise NoBoundsError("it is in train mode")
    return x


def gelu(x: Bounds, approximate: str = "none") -> Bounds:
    """Compute the bounds of GELU, exact or by tanh."""
    lowest = -0.7517916243494656 if approximate == "none" else -0.7524613922
    return _rounded(unimodal(lambda v: F.gelu(v, approximate=approximate), lowest, x), x)


def silu(x: Bounds) -> Bounds:
    """Compute the bounds of SiLU."""
    return _rounded(unimodal(F.silu, -1.2784645427610738, x), x)


def hardswish(x: Bounds) -> Bounds:
    """Compute the bounds of hard swish."""
    return _rounded(unimodal(F.hardswish, -1.5, x), x)


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: monotone,
    nn.ReLU6: monotone,
    nn.LeakyReLU: _leaky,
    nn.Sigmoid: smooth,
    nn.Tanh: smooth,
    nn.GELU: lambda module, x: gelu(x, module.approximate),
    nn.SiLU: lambda _, x: silu(x),
    nn.Hardswish: lambda _, x: hardswish(x),
    nn.MaxPool1d: monotone,
    nn.MaxPool2d: monotone,
    nn.AdaptiveMaxPool2d: monotone,
    nn.AvgPool1d: averaged,
    nn.AvgPool2d: averaged,
    nn.AdaptiveAvgPool1d: averaged,
    nn.AdaptiveAvgPool2d: averaged,
    nn.Flatten: monotone,
    nn.Identity: lambda _, x: x,
    nn.Dropout: lambda module, x: dropout(x, training=module.training),
    nn.Dropout2d: lambda module, x: dropout(x, training=module.training),
}
"""Module types and their rules."""
