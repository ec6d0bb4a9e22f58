"""Call trace of one sample: the layers called, their inputs and their FLOPs."""

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
    """The call trace of one sample through a model.

    Attributes:
        operations: FLOPs; a multiply-add counts as two.
        inputs: Inputs of each layer by path: one tensor per call, all zeros.
    """

    operations: int
    inputs: Mapping[str, tuple[Tensor, ...]]


def first_batch(work: Work) -> Mapping[str, Tensor]:
    """Return the first batch of samples.

    Raises:
        InputError: There is no sample.
    """
    for batch in work.batches():
        return batch
    raise InputError(Problem("calibration", "no batch", "at least one batch of samples"))


def passage(model: nn.Module, paths: Iterable[str], work: Work) -> Passage:
    """Run one sample through a model in evaluation mode, and record its calls.

    Args:
        model: Not modified.
        paths: The layers to trace.
        work: The sample and the forward function.

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
    """Count the FLOPs of a module's calls; a multiply-add counts as two.

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
    """An adapter that runs a model as a task with named batch tensors."""

    work: Work
    inputs: tuple[str, ...]

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.work.forward(model, batch)}
