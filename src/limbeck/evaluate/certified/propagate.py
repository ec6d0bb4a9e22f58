"""Interval bound propagation (IBP) through a model's torch.fx graph."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn
from torch.nn.utils.parametrize import type_before_parametrizations as kind

from limbeck.evaluate.certified.bounds import Bounds, NoBoundsError
from limbeck.evaluate.certified.functions import FUNCTIONS, IN_PLACE, METHODS, NEW
from limbeck.evaluate.certified.rules import RULES


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
    """Compute the bounds of every node of a graph from bounds of the input.

    Args:
        model: The model, in eval mode, with one input.
        graph: Its graph.
        x: Bounds of the input, `[n, ...]`.

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
            raise NoBoundsError("it overwrites what is used elsewhere")
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
