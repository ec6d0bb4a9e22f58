"""Deterministic selection of an exact number of lowest-scoring weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def count_of(sparsity: float, weights: int) -> int:
    """Return the number of weights to mask, rounded to the nearest integer.

    Example:
        >>> count_of(0.9, 25)
        22
    """
    return round(sparsity * weights)


def smallest(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Select the smallest scores over all tensors.

    Args:
        scores: One tensor per weight, of any shape.
        count: Number to select, at most the number of scores.

    Returns:
        Boolean tensors in the shapes of the scores, with exactly `count` true. Ties are broken by
        order, earlier first.

    Example:
        >>> smallest([torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.5])], 2)
        [tensor([False,  True]), tensor([False,  True])]
    """
    flat = torch.cat([score.flatten() for score in scores])
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    found = _smallest(flat, count) if count else torch.zeros_like(flat, dtype=torch.bool)
    parts = found.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def _smallest(flat: Tensor, count: int) -> Tensor:
    threshold = _value_at(flat, count)
    below, equal = flat < threshold, flat == threshold
    return below | (equal & (equal.cumsum(0) <= count - below.sum()))


def _value_at(flat: Tensor, count: int) -> Tensor:
    """Return the value of the count-th smallest score."""
    # On a CPU selection is many times faster than sorting; on a GPU it uses a single block.
    return flat.sort().values[count - 1] if flat.is_cuda else flat.kthvalue(count).values
