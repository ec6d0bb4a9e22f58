"""Calibration observers: range and mean magnitude of layer inputs over all samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from limbeck.compress.method import Work
from limbeck.errors import InputError, Problem
from limbeck.evaluate.flops import evaluating


@dataclass(frozen=True)
class Seen:
    """Statistics of a layer's input.

    Attributes:
        least: The minimum.
        most: The maximum.
        mean: The mean magnitude, E|x|.
    """

    least: float
    most: float
    mean: float


def observe(model: nn.Module, paths: Iterable[str], work: Work) -> dict[str, Seen]:
    """Run all calibration samples through a model, and record statistics of layer inputs.

    Args:
        model: Not modified.
        paths: The layers.
        work: The samples and the forward function.

    Returns:
        The statistics by path, in the order in which layers are first called; layers that are never
        called are missing.

    Raises:
        InputError: There are no samples, or a layer's input is not finite.
    """
    notes: dict[str, list[tuple[Tensor, Tensor, Tensor, int]]] = {}

    def watch(path: str) -> RemovableHandle:
        def note(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            x = (*args, *kwargs.values())[0].detach().float()
            least, most = x.aminmax()
            found = (least, most, x.abs().sum(), x.numel())
            notes.setdefault(path, []).append(found)

        return model.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True)

    handles = [watch(path) for path in paths]
    samples = 0
    try:
        with evaluating(model), torch.no_grad():
            for batch in work.batches():
                samples += len(next(iter(batch.values())))
                work.forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if samples == 0:
        raise InputError(Problem("calibration", "no sample", "at least one training sample"))
    seen = {path: _together(found) for path, found in notes.items()}
    wild = [path for path, one in seen.items() if not -1e30 < one.least <= one.most < 1e30]
    if wild:
        given = f"numbers that are not finite, into {', '.join(wild)}"
        raise InputError(Problem("calibration", given, "samples that the model can answer"))
    return seen


def _together(found: list[tuple[Tensor, Tensor, Tensor, int]]) -> Seen:
    least, most, sums, counts = zip(*found, strict=True)
    return Seen(
        float(torch.stack(least).min()),
        float(torch.stack(most).max()),
        float(torch.stack(sums).double().sum()) / sum(counts),
    )
