"""Removable layers of a model: those whose output has the shape of their input."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from limbeck.compress.changes import drop
from limbeck.compress.method import CalibrationContext
from limbeck.compress.structure import answer
from limbeck.compress.trace import check_no_hooked_weights
from limbeck.errors import InputError, Problem, did_you_mean


def candidates(model: nn.Module, work: CalibrationContext) -> list[str]:
    """Return the entries of lists and sequences whose output has the shape of their input.

    Entries without a weight matrix (activations, norms, dropout) are excluded: they save next to
    nothing.

    Args:
        model: The model, run on two samples and not modified.
        work: The samples and the forward function.

    Returns:
        Paths in the order of the model; nested entries come after their parent.
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
    """Find the modules whose output has the shape of their input in every call."""
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
    """Resolve layers given by number, path or pattern.

    Args:
        numbered: The layers that numbers refer to, from 0.
        found: All layers that a path or pattern may match.
        wanted: Numbers, paths and patterns.

    Raises:
        InputError: A layer does not exist; all problems are reported at once.

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
    """Remove paths that only contain other layers, then those within a layer.

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
    """Choose evenly spaced layers.

    Example:
        >>> spread(list("abcdef"), 2), spread(list("abcdef"), 3)
        (['b', 'e'], ['b', 'd', 'f'])
    """
    return [found[(2 * place + 1) * len(found) // (2 * count)] for place in range(count)]


def least_important(
    model: nn.Module, found: list[str], count: int, work: CalibrationContext
) -> list[str]:
    """Choose layers greedily, each time the one whose removal costs least.

    Each layer is left out in turn, and the one with the best score without it on the validation
    samples is removed; ties are broken by the lowest loss on training samples.
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
