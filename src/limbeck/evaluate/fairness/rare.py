"""Long-tailed recall: rare classes against frequent ones (head-tail split)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNEVEN = 2.0
"""Minimal frequency ratio of frequent to rare classes for a gap to be reported."""


@dataclass(frozen=True)
class Ends:
    """The rarest and the most frequent third of the classes, by index.

    Attributes:
        rare: The rarest, at least one.
        frequent: As many of the most frequent.
        uneven: Whether the frequent ones are at least `UNEVEN` times as frequent on average.
    """

    rare: tuple[int, ...]
    frequent: tuple[int, ...]
    uneven: bool


def ends(frequency: NDArray[np.int64]) -> Ends:
    """Return the rarest and the most frequent third of the classes.

    Args:
        frequency: How often each class occurs, as counts.

    Example:
        >>> ends(np.array([100, 50, 10]))
        Ends(rare=(2,), frequent=(0,), uneven=True)
    """
    order = np.argsort(frequency, kind="stable")
    third = max(1, len(order) // 3)
    rare, frequent = order[:third], order[-third:]
    low, high = frequency[rare].mean(), frequency[frequent].mean()
    return Ends(
        rare=tuple(sorted(int(each) for each in rare)),
        frequent=tuple(sorted(int(each) for each in frequent)),
        uneven=bool(high > low and high >= UNEVEN * low),
    )


def recall(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: int,
    counts: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Compute the recall of each class, `[draws, classes]`; NaN for a class without samples.

    Args:
        labels: `[samples]`.
        predicted: The predicted classes, `[samples]`.
        classes: Number of classes.
        counts: How often each sample counts, `[draws, samples]`; by default once.

    Example:
        >>> recall(np.array([0, 0, 1]), np.array([0, 1, 1]), classes=3)
        array([[0.5, 1. , nan]])
    """
    counts = np.ones((1, len(labels))) if counts is None else counts
    of_class = labels[:, None] == np.arange(classes)
    total = counts @ of_class
    right = counts @ (of_class & (labels == predicted)[:, None])
    return np.divide(right, total, out=np.full(total.shape, np.nan), where=total > 0)


def worst(recalls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smallest recall of a class, `[draws]`; classes without samples left out."""
    return np.fmin.reduce(recalls, axis=1)


def gap(recalls: NDArray[np.float64], between: Ends) -> NDArray[np.float64]:
    """Compute the mean recall of the frequent classes less that of the rare ones, `[draws]`.

    Example:
        >>> gap(np.array([[0.9, 0.8, 0.5]]), Ends(rare=(2,), frequent=(0,), uneven=True))
        array([0.4])
    """
    means = [_mean(recalls[:, list(some)]) for some in (between.frequent, between.rare)]
    return means[0] - means[1]


def _mean(recalls: NDArray[np.float64]) -> NDArray[np.float64]:
    there = np.isfinite(recalls)
    total = np.where(there, recalls, 0.0).sum(axis=1)
    count = there.sum(axis=1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
