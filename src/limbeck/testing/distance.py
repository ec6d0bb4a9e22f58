"""Relative differences of tensors; NaN counts as infinite."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, relative to the largest value of the second tensor.

    Example:
        >>> import torch
        >>> apart(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 4.0]))
        0.25
    """
    if ours.shape != theirs.shape:
        return float("inf")
    if not theirs.numel():
        return 0.0
    ours, theirs = ours.detach().double(), theirs.detach().double()
    difference, size = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    if difference == 0:
        return 0.0
    return difference / size if size and difference == difference else float("inf")


def farthest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest difference between paired tensors."""
    return max(apart(a, b) for a, b in zip(ours, theirs, strict=True))


def largest(tensors: Sequence[Tensor]) -> float:
    """Return the largest absolute value; 0 if there is none."""
    return max((part.detach().abs().max().item() for part in tensors if part.numel()), default=0.0)
