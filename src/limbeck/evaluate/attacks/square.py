"""The Square attack: a query-based black-box attack on the exported file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.attacks.pixels import Floats, Shown

FIRST_SHARE = 0.8
"""Share of the image that the first squares cover."""
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which the squares' area is halved."""


def square(
    shown: Shown,
    pixels: Floats,
    labels: NDArray[np.int64],
    *,
    size: float,
    queries: int = 50,
    seed: int = 0,
) -> Floats:
    """Apply the Square attack: keep random square perturbations that lower the label's margin.

    It begins with vertical stripes; each query sets a square of each channel to the lowest or the
    highest value allowed. An image that is misclassified gets no further queries.

    Args:
        shown: Computes the model's logits from pixels.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        size: The L-infinity perturbation size.
        queries: Largest number of queries per image.
        seed: Seed of stripes and squares.

    Source: Andriushchenko et al., ECCV 2020 (arXiv:1912.00049), Algorithm 2 and its schedule.
    """
    random = np.random.default_rng(seed)
    low = np.clip(pixels - size, 0, 1).astype(np.float32)
    high = np.clip(pixels + size, 0, 1).astype(np.float32)
    count, channels, _, width = pixels.shape
    if count == 0:
        return pixels
    stripes = random.random((count, channels, 1, width)) < 0.5
    best = np.where(stripes, low, high)
    margins = _margins(shown(best), labels)
    for query in range(1, queries):
        (right,) = np.nonzero(margins > 0)
        if len(right) == 0:
            break
        tried = best[right]
        side = _side(query / queries, pixels.shape[2:])
        for one, row in zip(tried, right, strict=True):
            _place(one, low[row], high[row], side, random)
        found = _margins(shown(tried), labels[right])
        better = found < margins[right]
        best[right[better]] = tried[better]
        margins[right[better]] = found[better]
    return best


def _place(
    picture: Floats, low: Floats, high: Floats, side: int, random: np.random.Generator
) -> None:
    channels, height, width = picture.shape
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    window = (slice(None), slice(top, top + side), slice(left, left + side))
    down = random.random((channels, 1, 1)) < 0.5
    picture[window] = np.where(down, low[window], high[window])


def _side(progress: float, space: tuple[int, ...]) -> int:
    """Compute the side of a square, in pixels."""
    halved = sum(progress > share for share in HALVINGS)
    area = FIRST_SHARE / 2**halved * np.prod(space)
    return min(max(round(float(area) ** 0.5), 1), *space)


def _margins(logits: Floats, labels: NDArray[np.int64]) -> Floats:
    """Compute the margin of the label's logit over the largest other logit, `[n]`."""
    rows = np.arange(len(labels))
    wrong = logits.astype(np.float64)
    right = wrong[rows, labels]
    wrong[rows, labels] = -np.inf
    return (right - wrong.max(axis=1)).astype(np.float32)
