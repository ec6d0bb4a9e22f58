"""Layers that a model may do without: those that give back what they take, in shape."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from limbeck.compress.changes import drop
from limbeck.compress.layers import check_no_hooked_weights
from limbeck.compress.method import Work
from limbeck.compress.structure.resize import answer
from limbeck.errors import InputError, Problem, did_you_mean


def candidates(model: nn.Module, work: Work) -> list[str]:
    """List the entries of lists and sequences that put out what they take in, in shape.

    Entries without a matrix among their weights (activations, norms, dropout) are no layers of
    their own, and save next to nothing.

    Args:
        model: Is run on two samples, and left as it was.
        work: Gives the samples, and runs the model.

    Returns:
        Paths in the order of the model; an entry's own entries come after it.
    """
    check_no_hooked_weights(model)
    entries = {
        f"{path}.{name}" if path else name: entry
        for path, holder in model.named_modules()
        if isinstance(holder, nn.ModuleList | nn.Sequential)
        for name, entry in holder.named_children()
        if any(weight.ndim > 1 for weight in entry.parameters())
    }
    with _shapes_of(entries.values()) as kept:
        answer(model, work)
    order = {path: place for place, (path, _) in enumerate(model.named_modules())}
    found = [path for path, entry in entries.items() if kept.get(entry, False)]
    return sorted(found, key=lambda path: order.get(path, len(order)))


@contextmanager
def _shapes_of(entries: Iterable[nn.Module]) -> Iterator[dict[nn.Module, bool]]:
    """Find out which modules put out what they take in, in shape, whenever they are called."""
    kept: dict[nn.Module, bool] = {}

    def see(
        entry: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], out: object
    ) -> None:
        taken = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), None)
        given = out[0] if isinstance(out, tuple) and out else out
        same = isinstance(given, Tensor) and taken is not None and given.shape == taken.shape
        kept[entry] = kept.get(entry, True) and same

    handles = [entry.register_forward_hook(see, with_kwargs=True) for entry in entries]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def named(numbered: list[str], found: list[str], wanted: Iterable[int | str]) -> list[str]:
    """Look layers up, by number or by path or pattern.

    Args:
        numbered: The layers that numbers stand for, from 0.
        found: All layers that a path or pattern may name.
        wanted: Numbers, paths and patterns.

    Raises:
        InputError: There is none; all that are wrong at once.

    Example:
        >>> layers = ["layer.0", "layer.1", "layer.2"]
        >>> named(layers, layers, [0, "layer.2"])
        ['layer.0', 'layer.2']
        >>> named(layers, layers, [3])
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: drop: got 3; allowed: 0 to 2, or a path: layer.0, ...
    """
    chosen: set[str] = set()
    problems = []
    for one in wanted:
        if isinstance(one, int):
            matched = {path for number, path in enumerate(numbered) if number == one}
        else:
            matched = {path for path in found if fnmatchcase(path, one)}
        chosen |= matched
        if not matched:
            allowed = f"0 to {len(numbered) - 1}, or a path: {', '.join(found)}"
            problems.append(Problem("drop", one, allowed, did_you_mean(one, found)))
    if problems:
        raise InputError(*problems)
    return outermost(path for path in found if path in chosen)


def outermost(paths: Iterable[str]) -> list[str]:
    """Leave out what lies within another.

    Example:
        >>> outermost(["a.0", "a.0.b.1", "a.1"])
        ['a.0', 'a.1']
    """
    all_ = list(paths)
    return [path for path in all_ if not any(path.startswith(f"{other}.") for other in all_)]


def without(model: nn.Module, paths: Iterable[str]) -> nn.Module:
    """Copy a model, and take layers out of the copy."""
    trial = copy.deepcopy(model)
    drop.apply(trial, layers=paths)
    return trial


def blocks(model: nn.Module, found: list[str]) -> list[str]:
    """Leave out what only holds other layers, and then what lies within a layer.

    Example:
        >>> part = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> blocks(nn.Sequential(part), ["0", "0.0", "0.1"])
        ['0.0', '0.1']
    """
    single = [
        path
        for path in found
        if type(model.get_submodule(path)) is not nn.Sequential
        or not any(other.startswith(f"{path}.") for other in found)
    ]
    return outermost(single)


def spread(found: list[str], count: int) -> list[str]:
    """Choose layers at even distances.

    Example:
        >>> spread(list("abcdef"), 2), spread(list("abcdef"), 3)
        (['b', 'e'], ['b', 'd', 'f'])
    """
    return [found[(2 * place + 1) * len(found) // (2 * count)] for place in range(count)]


def least_harmful(model: nn.Module, found: list[str], count: int, work: Work) -> list[str]:
    """Choose layers one by one, each time the one whose absence costs least.

    Each layer is left out in turn; the one goes without which the model does best on the
    validation samples, and among equals the one that leaves the lowest loss on training samples.
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


def _loss(model: nn.Module, work: Work) -> float:
    model.eval()
    with torch.no_grad():
        losses = [float(work.loss(model, batch)) for batch in work.batches()]
    return sum(losses) / max(len(losses), 1)
