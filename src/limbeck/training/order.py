"""In which order samples come: a pure function of seed and epoch, so a position is two numbers."""

from __future__ import annotations

import torch


def batches(
    samples: int, *, size: int, seed: int, epoch: int, processes: int = 1
) -> list[list[int]]:
    """Shuffle the samples of one epoch into micro-batches, over all processes together.

    A last batch joins the one before it if it is too small to feed every process, or a single
    sample, whose batch statistics are undefined. So two processes train on the batches of one.

    Args:
        samples: How many samples there are.
        size: Samples a micro-batch.
        seed: The run's seed.
        epoch: The epoch, from 0.
        processes: How many processes share a micro-batch.

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
    """Take one process's part of a micro-batch; the parts differ in size by one sample at most.

    Example:
        >>> [share([3, 1, 4, 1, 5], rank=rank, processes=2) for rank in (0, 1)]
        [[3, 4, 5], [1, 1]]
    """
    return batch[rank::processes]
