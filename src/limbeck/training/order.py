"""The sampler: the sample order is a pure function of seed and epoch."""

from __future__ import annotations

import torch


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
    parts = [order[start : start + size] for start in range(0, samples, size)]
    if len(parts) > 1 and len(parts[-1]) < max(2, processes):
        last = parts.pop()
        parts[-1] = parts[-1] + last
    return parts


def share(batch: list[int], *, rank: int, processes: int) -> list[int]:
    """Return one process's part of a micro-batch; parts differ in size by at most one sample.

    Example:
        >>> [share([3, 1, 4, 1, 5], rank=rank, processes=2) for rank in (0, 1)]
        [[3, 4, 5], [1, 1]]
    """
    return batch[rank::processes]
