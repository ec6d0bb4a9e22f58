"""Batch loading for the training loop: the given samples, in the given order, on the device."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
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
            examples,  # type: ignore[arg-type]  # torch calls __getitems__ for whole batches
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


def batches(
    samples: int, *, size: int, seed: int, epoch: int, processes: int = 1
) -> list[list[int]]:
    """Shuffle the samples of one epoch into micro-batches, over all processes together.

    A last batch is merged with the one before it if it has fewer samples than processes, or a
    single sample, whose batch statistics are undefined. So two processes train on the same batches
    as one.

    Args:
        samples: The number of samples.
        size: The number of samples per micro-batch.
        seed: The run's seed.
        epoch: The epoch, from 0.
        processes: The number of processes that share a micro-batch.

    Example:
        >>> [len(batch) for batch in batches(9, size=4, seed=0, epoch=0)]
        [4, 5]
        >>> batches(9, size=4, seed=0, epoch=1) == batches(9, size=4, seed=0, epoch=0)
        False
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(samples, generator=generator).tolist()
    count = number_of_batches(samples, size=size, processes=processes)
    ends = [*(size * number for number in range(1, count)), samples]
    return [order[start:end] for start, end in pairwise((0, *ends))] if samples else []


def number_of_batches(samples: int, *, size: int, processes: int = 1) -> int:
    """Return the number of micro-batches of an epoch.

    Example:
        >>> number_of_batches(9, size=4), number_of_batches(10, size=4)
        (2, 3)
    """
    count = -(-samples // size)
    last = samples - (count - 1) * size
    return count - 1 if count > 1 and last < max(2, processes) else count


def share(batch: list[int], *, rank: int, processes: int) -> list[int]:
    """Return one process's part of a micro-batch; parts differ in size by at most one sample.

    Example:
        >>> [share([3, 1, 4, 1, 5], rank=rank, processes=2) for rank in (0, 1)]
        [[3, 4, 5], [1, 1]]
    """
    return batch[rank::processes]
