"""Batch loading for the training loop: the given samples, in the given order, on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from limbeck.tasks import Batch


class Examples(Protocol):
    """A data set indexed by sample; a batch is a mapping of tensors."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitems__(self, indices: list[int], /) -> dict[str, Tensor]:
        """Return some samples as a batch."""
        ...

    def set_epoch(self, epoch: int, /) -> None:
        """Set the epoch of the next batches, on which augmentation may depend."""
        ...


def load(
    examples: Examples, batches: list[list[int]], *, workers: int, device: torch.device
) -> Iterator[Batch]:
    """Load batches one after the other.

    Args:
        examples: The samples.
        batches: The sample indices of each batch.
        workers: The number of prefetching processes; 0 loads in this process, on demand.
        device: The device of the batches.
    """
    for batch in _loaded(examples, batches, workers):
        if device.type == "cpu":
            yield batch
        else:
            yield {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _loaded(examples: Examples, batches: list[list[int]], workers: int) -> Iterator[Batch]:
    if workers == 0:  # a DataLoader would only cost time here
        return (examples.__getitems__(batch) for batch in batches)
    return iter(
        DataLoader(
            examples,  # type: ignore[arg-type]  # torch asks __getitems__ for whole batches
            batch_sampler=batches,
            collate_fn=_as_is,
            num_workers=workers,
            # A separate generator: the loader draws a number at each start, and a resumed run
            # starts more often.
            generator=torch.Generator(),
        )
    )


def _as_is(batch: Any) -> Any:
    return batch
