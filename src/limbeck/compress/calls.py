"""What one sample does to a model: which layers it calls, with what, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.compress.method import Work
from limbeck.errors import InputError, Problem
from limbeck.evaluate.flops import evaluating, flops


@dataclass(frozen=True)
class Passage:
    """One sample's way through a model.

    Attributes:
        operations: What it costs, a multiply-add as two.
        inputs: What each layer is called with, by path: one tensor a call, all zeros.
    """

    operations: int
    inputs: Mapping[str, tuple[Tensor, ...]]


def first_batch(work: Work) -> Mapping[str, Tensor]:
    """Give the first batch of samples.

    Raises:
        InputError: There is none.
    """
    for batch in work.batches():
        return batch
    raise InputError(Problem("calibration", "no batch", "at least one batch of samples"))


def passage(model: nn.Module, paths: Iterable[str], work: Work) -> Passage:
    """Send one sample through a model in evaluation mode.

    Args:
        model: Is left as it was.
        paths: The layers to watch.
        work: Gives the sample, and runs the model.

    Raises:
        InputError: There is no sample.
    """
    seen: dict[str, list[Tensor]] = {path: [] for path in paths}

    def watch(path: str) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            seen[path].append(torch.zeros_like((*args, *kwargs.values())[0]))

        return model.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True)

    sample = {name: tensor[:1] for name, tensor in first_batch(work).items()}
    handles = [watch(path) for path in seen]
    try:
        operations = flops(model, _Door(work, tuple(sample)), sample)
    finally:
        for handle in handles:
            handle.remove()
    return Passage(operations, {path: tuple(inputs) for path, inputs in seen.items()})


def operations(module: nn.Module, inputs: Iterable[Tensor]) -> int:
    """Count what a module's calls cost, a multiply-add as two.

    Example:
        >>> operations(nn.Linear(4, 3), [torch.zeros(1, 4), torch.zeros(1, 4)])
        48
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with evaluating(module), torch.no_grad(), counter:
        for tensor in inputs:
            module(tensor)
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class _Door:
    """A method's way to run a model, as a task that names the batch's tensors."""

    work: Work
    inputs: tuple[str, ...]

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.work.forward(model, batch)}
