"""Model calls, and the logits in a model's output.

Libraries return logits as a tensor, a tuple, a mapping or a dataclass; some nets have auxiliary
heads that are active in training mode only. Only this module handles the differences.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, fx, nn

from limbeck.errors import InputError, Problem

ALIASES = {"image": "pixel_values"}
"""The names of a task's inputs in transformers."""

LOGITS = "logits"
AUXILIARY = "aux"
SHOWN = 8


def run(
    model: nn.Module, inputs: Mapping[str, Tensor], *, classes: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a model and return its logits `[n, classes]` and those of its auxiliary heads.

    A tensor `[n, classes, 1, 1]` loses its axes of length 1. In a mapping, dataclass or named
    tuple, `logits` is used, and fields whose name begins with `aux` are auxiliary heads; else the
    only tensor of shape `[n, classes]` is used, at any position.

    Args:
        model: Any module.
        inputs: The task's inputs by name, in order.
        classes: The number of classes.

    Raises:
        InputError: No output, or more than one, can be the logits: the message lists all outputs.

    Example:
        >>> import torch
        >>> class Net(nn.Module):
        ...     def forward(self, x):
        ...         return {"logits": x[:, :2, None, None], "features": x}
        >>> run(Net(), {"features": torch.zeros(3, 4)}, classes=2)[0].shape
        torch.Size([3, 2])
    """
    returned = call(model, inputs)
    if isinstance(returned, fx.Proxy):  # symbolic tracing has no shapes to choose by
        return cast("Tensor", returned), ()
    if isinstance(returned, Tensor):
        return _rows(returned, returned), ()
    tensors = {name: _squeezed(one) for name, one in _tensors(returned)}
    fitting = {name: one for name, one in tensors.items() if _fits(one, classes)}
    heads = tuple(one for name, one in fitting.items() if name.startswith(AUXILIARY))
    if LOGITS in tensors:
        return _rows(tensors[LOGITS], returned), heads
    candidates = [one for name, one in fitting.items() if not name.startswith(AUXILIARY)]
    if len(candidates) == 1:
        return candidates[0], heads
    fix = "Set `output` beside the model's name if it is one of these, or change the model."
    if candidates:
        fix = (
            "Set `output` beside the model's name: a field or position (`output: 0`), or "
            "`output: mean` for the mean of all heads."
        )
    allowed = "one tensor [n, classes], or a field named logits"
    raise InputError(Problem("model.output", _described(returned), allowed, fix))


def run_map(
    model: nn.Module, inputs: Mapping[str, Tensor], *, classes: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a model and return its map of logits `[n, classes, h, w]`, and its auxiliary heads.

    In a mapping, dataclass or named tuple, `logits` or `out` is used, else the only tensor of that
    many classes; fields whose name begins with `aux` are auxiliary heads.

    Raises:
        InputError: No output, or more than one, can be the map of logits.

    Example:
        >>> import torch
        >>> class Net(nn.Module):
        ...     def forward(self, x):
        ...         return {"out": x[:, :2], "aux": x[:, 1:]}
        >>> run_map(Net(), {"image": torch.zeros(1, 3, 4, 5)}, classes=2)[0].shape
        torch.Size([1, 2, 4, 5])
    """
    returned = call(model, inputs)
    if isinstance(returned, fx.Proxy):  # symbolic tracing has no shapes to choose by
        return cast("Tensor", returned), ()
    named = {"": returned} if isinstance(returned, Tensor) else dict(_tensors(returned))
    fitting = {
        name: one
        for name, one in named.items()
        if one.ndim == 4 and one.shape[1] == classes and one.is_floating_point()
    }
    heads = tuple(one for name, one in fitting.items() if name.startswith(AUXILIARY))
    candidates = {k: one for k, one in fitting.items() if not k.startswith(AUXILIARY)}
    for name in (LOGITS, "out", *(candidates if len(candidates) == 1 else ())):
        if name in candidates:
            return candidates[name], heads
    allowed = f"one tensor [n, {classes}, h, w], or a field named logits or out"
    raise InputError(Problem("model.output", _described(returned), allowed))


def run_tokens(model: nn.Module, inputs: Mapping[str, Tensor], *, classes: int) -> Tensor:
    """Run a model and return the logits of every position, `[n, classes, time]`.

    A tensor has this layout, as `nn.CrossEntropyLoss` expects it. In a mapping, dataclass or named
    tuple, `logits` is used, in the layout of transformers, `[n, time, classes]`.

    Raises:
        InputError: No output has a logit per class at each position of the first input.

    Example:
        >>> import torch
        >>> class Net(nn.Module):
        ...     def forward(self, x):
        ...         return {"logits": nn.functional.one_hot(x, 3).float()}
        >>> run_tokens(Net(), {"input_ids": torch.zeros(2, 5, dtype=torch.int64)}, classes=3).shape
        torch.Size([2, 3, 5])
    """
    returned = call(model, inputs)
    if isinstance(returned, fx.Proxy):  # symbolic tracing has no shapes to choose by
        return cast("Tensor", returned)
    first = next(iter(inputs.values()))
    expected = (first.shape[0], classes, first.shape[1])
    logits: Tensor | None = returned if isinstance(returned, Tensor) else None
    if logits is None:
        named = dict(_tensors(returned)).get(LOGITS)
        logits = named.transpose(1, 2) if named is not None and named.ndim == 3 else None
    if logits is None or tuple(logits.shape) != expected or not logits.is_floating_point():
        allowed = f"a tensor [n, {classes}, time], or a field named logits [n, time, {classes}]"
        fix = f"n is {expected[0]} and time {expected[2]} for this batch."
        raise InputError(Problem("model.output", _described(returned), allowed, fix))
    return logits


def run_values(model: nn.Module, inputs: Mapping[str, Tensor], *, width: int) -> Tensor:
    """Run a model and return its real values, flattened to `[n, width]`.

    In a mapping, dataclass or named tuple, `logits` is used, else the only tensor of that size.

    Raises:
        InputError: No output, or more than one, has that many values per sample.

    Example:
        >>> import torch
        >>> run_values(nn.Unflatten(1, (2, 3)), {"series": torch.zeros(4, 6)}, width=6).shape
        torch.Size([4, 6])
    """
    returned = call(model, inputs)
    if isinstance(returned, fx.Proxy):  # symbolic tracing has no shapes to choose by
        return cast("Tensor", returned)
    named = {LOGITS: returned} if isinstance(returned, Tensor) else dict(_tensors(returned))
    fitting = {
        name: one.flatten(1)
        for name, one in named.items()
        if one.ndim > 1 and math.prod(one.shape[1:]) == width and one.is_floating_point()
    }
    for name in (LOGITS, *(fitting if len(fitting) == 1 else ())):
        if name in fitting:
            return fitting[name]
    allowed = f"one tensor of {width} values per sample, or a field named logits"
    raise InputError(Problem("model.output", _described(returned), allowed))


def call(model: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    """Call a model with its parameters' names, or else by position."""
    parameters = inspect.signature(model.forward).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    anything = inspect.Parameter.VAR_KEYWORD in kinds
    named = {
        ALIASES[name] if ALIASES.get(name) in parameters else name: tensor
        for name, tensor in inputs.items()
    }
    first = next(iter(named))
    if first in parameters or (anything and len(named) > 1):
        return model(**{key: one for key, one in named.items() if anything or key in parameters})
    tensors = list(inputs.values())
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return model(*tensors)
    by_position = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    count = sum(parameter.kind in by_position for parameter in parameters.values())
    return model(*tensors[: max(1, count)])


def _tensors(returned: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors of a structure, by field name or position; nested ones are ignored."""
    if isinstance(returned, Mapping):
        items = [(str(name), one) for name, one in returned.items()]
    elif dataclasses.is_dataclass(returned):
        items = [(one.name, getattr(returned, one.name)) for one in dataclasses.fields(returned)]
    elif hasattr(returned, "_fields"):
        items = list(zip(returned._fields, returned, strict=True))
    elif isinstance(returned, tuple | list):
        items = [(str(index), one) for index, one in enumerate(returned)]
    else:  # a plain object with attributes
        items = list(getattr(returned, "__dict__", {}).items())
    return [(name, one) for name, one in items if isinstance(one, Tensor)]


def _squeezed(tensor: Tensor) -> Tensor:
    """Drop dimensions of size 1 after the second, such as those of a convolutional classifier."""
    while tensor.ndim > 2 and tensor.shape[-1] == 1:
        tensor = tensor.squeeze(-1)
    return tensor


def _fits(rows: Tensor, classes: int) -> bool:
    return rows.ndim == 2 and rows.shape[1] == classes and rows.is_floating_point()


def _rows(tensor: Tensor, returned: object) -> Tensor:
    rows = _squeezed(tensor)
    if rows.ndim != 2 or not rows.is_floating_point():
        fix = "Return one row of logits per sample: pool over positions, do not take the argmax."
        raise InputError(Problem("model", _described(returned), "logits [n, classes]", fix))
    return rows


def _described(returned: object) -> str:
    if isinstance(returned, Tensor):
        kind = str(returned.dtype).removeprefix("torch.")
        return f"an output {kind} {list(returned.shape)}"
    parts = [f"{name} {list(one.shape)}" for name, one in _tensors(returned)]
    more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return f"{type(returned).__name__} of {', '.join(parts[:SHOWN]) or 'no tensors'}{more}"
