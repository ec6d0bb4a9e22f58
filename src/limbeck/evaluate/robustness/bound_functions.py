"""Bound propagation rules of functions and tensor methods."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import type_before_parametrizations as kind

from limbeck.evaluate.robustness.bounds import (
    RULES,
    Bounds,
    NoBoundsError,
    averaged,
    dropout,
    gelu,
    hardswish,
    monotone,
    silu,
    smooth,
)

Function = Callable[..., Any]
Operand = Bounds | Tensor | float


def _lifted(function: Function) -> Function:
    """Return the rule of a function that is nondecreasing in its first argument."""
    return lambda x, *rest, **options: monotone(lambda v: function(v, *rest, **options), x)


def _mean(function: Function) -> Function:
    return lambda x, *rest, **options: averaged(lambda v: function(v, *rest, **options), x)


def _add(a: Operand, b: Operand) -> Bounds:
    one, other = _as_bounds(a), _as_bounds(b)
    return Bounds(one.low + other.low, one.high + other.high).rounded(2)


def _subtract(a: Operand, b: Operand) -> Bounds:
    subtrahend = _as_bounds(b)
    return _add(a, Bounds(-subtrahend.high, -subtrahend.low))


def _multiply(a: Operand, b: Operand) -> Bounds:
    if not isinstance(a, Bounds):
        return _multiply(b, a)
    if isinstance(b, Bounds):
        raise NoBoundsError("there is no rule for a product of two results")
    return _hull(a.low * _exact(b), a.high * _exact(b))


def _divide(a: Bounds, b: Operand) -> Bounds:
    if isinstance(b, Bounds):
        raise NoBoundsError("there is no rule for dividing by a result")
    return _hull(a.low / _exact(b), a.high / _exact(b))


def _hull(one: Tensor, other: Tensor) -> Bounds:
    return Bounds(one.minimum(other), one.maximum(other)).rounded(3)


def _as_bounds(value: Operand) -> Bounds:
    if isinstance(value, Bounds):
        return value
    exact = torch.as_tensor(_exact(value), dtype=torch.float64)
    return Bounds(exact, exact)


def _exact(value: Tensor | float) -> Tensor | float:
    return value.double() if isinstance(value, Tensor) else value


def _concatenate(parts: Sequence[Bounds | Tensor], dim: int = 0) -> Bounds:
    bounds = [_as_bounds(part) for part in parts]
    return Bounds(
        torch.cat([part.low for part in bounds], dim),
        torch.cat([part.high for part in bounds], dim),
    )


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
    torch.relu: lambda x: monotone(torch.relu, x),
    F.relu: lambda x, inplace=False: monotone(F.relu, x),
    F.gelu: gelu,
    F.silu: lambda x, inplace=False: silu(x),
    F.hardswish: lambda x, inplace=False: hardswish(x),
    torch.sigmoid: lambda x: smooth(torch.sigmoid, x),
    torch.tanh: lambda x: smooth(torch.tanh, x),
    F.max_pool2d: _lifted(F.max_pool2d),
    F.avg_pool2d: _mean(F.avg_pool2d),
    F.adaptive_avg_pool2d: _mean(F.adaptive_avg_pool2d),
    torch.mean: _mean(torch.mean),
    F.dropout: dropout,
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
    "relu": lambda x: monotone(torch.relu, x),
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


def trace(model: nn.Module) -> fx.Graph:
    """Trace a model's graph.

    Raises:
        NoBoundsError: The model's control flow depends on its input, or torch.fx cannot trace it.
    """
    try:
        return fx.Tracer().trace(model)
    except Exception as error:  # tracing runs the model's own code, which can raise anything
        reason = " ".join(str(error).split())
        raise NoBoundsError(f"torch.fx cannot trace the model: {reason}") from error


def propagate(model: nn.Module, graph: fx.Graph, x: Bounds) -> dict[fx.Node, Any]:
    """Compute the bounds of every node of a graph from bounds of the input, `[n, ...]`.

    The model is in eval mode and has one input.

    Raises:
        NoBoundsError: A part has no rule; it is named.

    Source: Gowal et al. 2018 (arXiv:1810.12715); Mirman et al., ICML 2018.
    """
    known: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        try:
            known[node] = _result(model, node, known, x)
        except NoBoundsError as error:
            raise NoBoundsError(f"{_name(model, node)}: {error}") from error
    return known


def _result(model: nn.Module, node: fx.Node, known: dict[fx.Node, Any], x: Bounds) -> Any:
    arguments: Any = fx.node.map_arg(node.args, lambda one: known[one])
    options: Any = fx.node.map_arg(node.kwargs, lambda one: known[one])
    if node.op == "placeholder":
        return x
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(model)
    if node.op == "output":
        return arguments[0]
    _check_overwriting(model, node)
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        rule = RULES.get(kind(module))  # a masked layer is a layer with masked weights
        if rule is None or options or len(arguments) != 1:
            raise NoBoundsError("there is no rule for it")
        return rule(module, arguments[0])
    return _call(node, arguments, options)


def _call(node: fx.Node, arguments: Any, options: Any) -> Any:
    method = node.op == "call_method"
    if not _bounded((arguments, options)):
        if method:
            return getattr(arguments[0], str(node.target))(*arguments[1:], **options)
        return node.target(*arguments, **options)  # type: ignore[operator]
    rule = METHODS.get(str(node.target)) if method else FUNCTIONS.get(node.target)
    if rule is None:
        raise NoBoundsError("there is no rule for it")
    try:
        return rule(*arguments, **options)
    except TypeError as error:  # an option without support in the rule, such as `alpha`
        raise NoBoundsError(f"there is no rule for it with these options: {error}") from error


def _bounded(values: Any) -> bool:
    if isinstance(values, Bounds):
        return True
    if isinstance(values, dict):
        return _bounded(tuple(values.values()))
    return isinstance(values, (tuple, list)) and any(map(_bounded, values))


def _check_overwriting(model: nn.Module, node: fx.Node) -> None:
    """Raise if an in-place operation overwrites a result that is used elsewhere."""
    module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    in_place = (
        node.target in IN_PLACE
        or bool(node.kwargs.get("inplace"))
        # As a positional argument, `inplace` is the only True of functions with a rule.
        or any(argument is True for argument in node.args)
        or (module is not None and bool(vars(module).get("inplace")))
    )
    source = node.args[0] if in_place and node.args else None
    while isinstance(source, fx.Node):
        if len(source.users) > 1 or source.op in {"placeholder", "get_attr"}:
            raise NoBoundsError("it overwrites a result that is used elsewhere")
        # Any other result may share memory with its arguments.
        source = source.args[0] if source.args and not _new(model, source) else None


def _new(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return kind(model.get_submodule(str(node.target))) in NEW
    return node.target in NEW


def _name(model: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{node.target} ({kind(model.get_submodule(str(node.target))).__name__})"
    target = node.target
    return f"{node.name} ({target if isinstance(target, str) else target.__name__})"
