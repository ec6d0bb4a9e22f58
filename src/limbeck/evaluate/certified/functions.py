"""Bound propagation rules of functions and tensor methods."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.evaluate.certified.bounds import Bounds, NoBoundsError
from limbeck.evaluate.certified.rules import averaged, gelu, hardswish, monotone, silu, smooth

Function = Callable[..., Any]


def _lifted(function: Function) -> Function:
    """Return the rule of a function that is nondecreasing in its first argument."""
    return lambda x, *rest, **options: monotone(lambda v: function(v, *rest, **options), x)


def _mean(function: Function) -> Function:
    return lambda x, *rest, **options: averaged(lambda v: function(v, *rest, **options), x)


def _add(a: Any, b: Any) -> Bounds:
    one, two = _as_bounds(a), _as_bounds(b)
    return Bounds(one.low + two.low, one.high + two.high).rounded(2)


def _subtract(a: Any, b: Any) -> Bounds:
    two = _as_bounds(b)
    return _add(a, Bounds(-two.high, -two.low))


def _multiply(a: Any, b: Any) -> Bounds:
    if isinstance(a, Bounds) and isinstance(b, Bounds):
        raise NoBoundsError("there is no rule for a product of two results")
    x, factor = (a, b) if isinstance(a, Bounds) else (b, a)
    one, two = x.low * _exactly(factor), x.high * _exactly(factor)
    return Bounds(one.minimum(two), one.maximum(two)).rounded(3)


def _divide(a: Any, b: Any) -> Bounds:
    if isinstance(b, Bounds):
        raise NoBoundsError("there is no rule for dividing by a result")
    one, two = a.low / _exactly(b), a.high / _exactly(b)
    return Bounds(one.minimum(two), one.maximum(two)).rounded(3)


def _as_bounds(value: Any) -> Bounds:
    if isinstance(value, Bounds):
        return value
    exact = torch.as_tensor(_exactly(value), dtype=torch.float64)
    return Bounds(exact, exact)


def _exactly(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) else value


def _concatenate(parts: Sequence[Any], dim: int = 0) -> Bounds:
    bounds = [_as_bounds(part) for part in parts]
    return Bounds(
        torch.cat([part.low for part in bounds], dim),
        torch.cat([part.high for part in bounds], dim),
    )


def _dropout(x: Bounds, p: float = 0.5, training: bool = True, inplace: bool = False) -> Bounds:
    if training:
        raise NoBoundsError("it is in train mode")
    return x


def _relu(x: Bounds, inplace: bool = False) -> Bounds:
    return monotone(F.relu, x)


def _getattr(x: Bounds, name: str) -> Any:
    if name not in {"shape", "ndim", "device"}:
        raise NoBoundsError(f"there is no rule for .{name}")
    return getattr(x.low, name)


def _view(name: str) -> Function:
    return _lifted(lambda v, *rest, **options: getattr(v, name)(*rest, **options))


def _of_shape(name: str) -> Function:
    return lambda x, *rest: getattr(x.low, name)(*rest)


FUNCTIONS: dict[Any, Function] = {
    operator.add: _add,
    operator.iadd: _add,
    torch.add: _add,
    operator.sub: _subtract,
    operator.mul: _multiply,
    operator.truediv: _divide,
    operator.getitem: _lifted(operator.getitem),
    getattr: _getattr,
    torch.cat: _concatenate,
    torch.flatten: _lifted(torch.flatten),
    torch.relu: _relu,
    F.relu: _relu,
    F.gelu: gelu,
    F.silu: lambda x, inplace=False: silu(x),
    F.hardswish: lambda x, inplace=False: hardswish(x),
    torch.sigmoid: lambda x: smooth(torch.sigmoid, x),
    torch.tanh: lambda x: smooth(torch.tanh, x),
    F.max_pool2d: _lifted(F.max_pool2d),
    F.avg_pool2d: _mean(F.avg_pool2d),
    F.adaptive_avg_pool2d: _mean(F.adaptive_avg_pool2d),
    torch.mean: _mean(torch.mean),
    F.dropout: _dropout,
    F.pad: _lifted(F.pad),
}
"""Functions and their rules."""

METHODS: dict[str, Function] = {
    **{
        name: _view(name)
        for name in ("flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze")
    },
    **{name: _of_shape(name) for name in ("size", "dim")},
    "contiguous": lambda x, *_, **__: x,
    "relu": _relu,
    "mean": _mean(torch.mean),
    "add": _add,
}
"""Names of tensor methods and their rules."""

IN_PLACE = frozenset({operator.iadd})
"""Functions that overwrite their first argument."""

NEW = frozenset(
    {
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d),
        *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
        *(operator.add, torch.add, operator.sub, operator.mul, operator.truediv, torch.cat),
    }
)
"""Modules and functions whose results share no memory with their arguments."""
