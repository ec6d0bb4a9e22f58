"""Which of many weights count least: exactly so many, and the same ones every time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def count_of(sparsity: float, weights: int) -> int:
    """Give how many of so many weights are masked: the nearest whole number.

    Example:
        >>> count_of(0.9, 25)
        22
    """
    return round(sparsity * weights)


def smallest(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Find the smallest scores of all tensors together.

    Args:
        scores: One tensor a weight, of any shapes.
        count: How many to find, at most as many as there are.

    Returns:
        A truth value for each score, in the shapes of the scores: exactly `count` are true. Among
        equal scores those that come first are found first.

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
    """Give the value up to which there are so many, at least."""
    # On a CPU selecting is many times as quick as sorting; on a GPU one block would do it all.
    return flat.sort().values[count - 1] if flat.is_cuda else flat.kthvalue(count).values
