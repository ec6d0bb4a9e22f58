"""Removable layers of a model: those whose output has the shape of their input."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import ExitStack
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from limbeck.compress.changes import drop
from limbeck.compress.method import CalibrationContext
from limbeck.compress.structure import two_samples
from limbeck.compress.trace import check_no_hooked_weights, predict
from limbeck.errors import InputError, Problem, did_you_mean


def candidates(model: nn.Module, work: CalibrationContext) -> list[str]:
    """Return the entries of lists and sequences whose output has the shape of their input.

    Entries without a weight matrix (activations, norms, dropout) are excluded: they save next to
    nothing. The model is run on two samples. The paths are in the order of the model; nested
    entries come after their parent.
    """
    check_no_hooked_weights(model)
    entries = {
        f"{path}.{name}" if path else name: entry
        for path, holder in model.named_modules()
        if isinstance(holder, nn.ModuleList | nn.Sequential)
        for name, entry in holder.named_children()
        if any(weight.ndim > 1 for weight in entry.parameters())
    }
    keeps_shape: dict[nn.Module, bool] = {}  # in every call

    def record(
        entry: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object
    ) -> None:
        tensors = (one for one in (*args, *kwargs.values()) if isinstance(one, Tensor))
        before = next(tensors, None)
        after = output[0] if isinstance(output, tuple) and output else output
        same = isinstance(after, Tensor) and before is not None and after.shape == before.shape
        keeps_shape[entry] = keeps_shape.get(entry, True) and same

    with ExitStack() as hooks:
        for entry in entries.values():
            hooks.enter_context(entry.register_forward_hook(record, with_kwargs=True))
        predict(model, two_samples(work), work)
    order = {path: index for index, (path, _) in enumerate(model.named_modules())}
    found = [path for path, entry in entries.items() if keeps_shape.get(entry, False)]
    return sorted(found, key=lambda path: order.get(path, len(order)))


def resolve(numbered: list[str], found: list[str], wanted: Iterable[int | str]) -> list[str]:
    """Resolve layers given by number (of `numbered`), path or pattern (of `found`).

    Example:
        >>> layers = ["layer.0", "layer.1", "layer.2"]
        >>> resolve(layers, layers, [0, "layer.2"])
        ['layer.0', 'layer.2']
        >>> resolve(layers, layers, [3])
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: drop: got 3; allowed: 0 to 2, or a path: layer.0, ...
    """
    selected: set[str] = set()
    problems = []
    allowed = f"0 to {len(numbered) - 1}, or a path: {', '.join(found)}"
    for layer in wanted:
        if isinstance(layer, int):
            matched = {path for number, path in enumerate(numbered) if number == layer}
        else:
            matched = {path for path in found if fnmatchcase(path, layer)}
        selected |= matched
        if not matched:
            problems.append(Problem("drop", layer, allowed, did_you_mean(layer, found)))
    if problems:
        raise InputError(*problems)
    return outermost(path for path in found if path in selected)


def outermost(paths: Iterable[str]) -> list[str]:
    """Remove paths that lie within another.

    Example:
        >>> outermost(["a.0", "a.0.b.1", "a.1"])
        ['a.0', 'a.1']
    """
    all_ = list(paths)
    return [path for path in all_ if not any(path.startswith(f"{other}.") for other in all_)]


def without(model: nn.Module, paths: Iterable[str]) -> nn.Module:
    """Copy a model, and remove layers of the copy."""
    trial = copy.deepcopy(model)
    drop.apply(trial, layers=paths)
    return trial


def blocks(model: nn.Module, found: list[str]) -> list[str]:
    """Remove paths that only contain other layers, then those within a layer."""
    single = [
        path
        for path in found
        if type(model.get_submodule(path)) is not nn.Sequential
        or not any(other.startswith(f"{path}.") for other in found)
    ]
    return outermost(single)


def evenly_spaced(found: list[str], count: int) -> list[str]:
    """Choose evenly spaced layers.

    Example:
        >>> evenly_spaced(list("abcdef"), 2), evenly_spaced(list("abcdef"), 3)
        (['b', 'e'], ['b', 'd', 'f'])
    """
    return [found[(2 * index + 1) * len(found) // (2 * count)] for index in range(count)]


def least_important(
    model: nn.Module, found: list[str], count: int, work: CalibrationContext
) -> list[str]:
    """Choose layers greedily, each time the one with the best validation score without it.

    Ties are broken by the lowest loss on training samples.
    """
    gone: list[str] = []
    for _ in range(count):
        rest = [path for path in found if path not in gone]
        quality = {path: work.validate(without(model, [*gone, path])) for path in rest}
        best = [path for path in rest if quality[path] == max(quality.values())]
        if len(best) > 1:
            losses = {path: _loss(without(model, [*gone, path]), work) for path in best}
            best.sort(key=lambda path: losses[path])
        gone.append(best[0])
    return gone


def _loss(model: nn.Module, work: CalibrationContext) -> float:
    model.eval()
    with torch.no_grad():
        losses = [float(work.loss(model, batch)) for batch in work.batches()]
    return sum(losses) / max(len(losses), 1)
