"""Variants of training pictures: a pure function of (seed, view, index)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from limbeck.data.randomness import below, random_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.spec import AugmentSpec

# The numbers of the draws: changing one would give every recorded answer another picture.
DOWN, RIGHT, MIRROR = 1, 2, 3


def vary(
    images: Tensor, index: Tensor, *, seed: int, view: int, spec: AugmentSpec, black: Tensor
) -> Tensor:
    """Move and mirror pictures, each by random numbers of its own.

    A crop of a picture padded by p pixels is the picture moved by up to p pixels, so crop and shift
    are one movement, by up to `crop + shift` pixels down and right, drawn evenly for each.

    Args:
        images: `[n, c, h, w]`.
        index: The pictures' rows in the split, `[n]`.
        seed: The run's seed.
        view: Which variant.
        spec: What may be done.
        black: What comes in from beyond an edge, `[c]`.
    """
    rows = index.numpy()
    images = _move(images, _offsets(rows, seed, view, spec), black, spec.crop + spec.shift)
    if spec.flip:
        mirrored = random_bits(seed, view, MIRROR, index=rows) >> np.uint64(63) == 1
        chosen = torch.from_numpy(mirrored)[:, None, None, None]
        images = torch.where(chosen, images.flip(-1), images)
    return images


def _offsets(
    rows: NDArray[np.int64], seed: int, view: int, spec: AugmentSpec
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw where each picture's new corner lies in the padded picture."""
    down, right = (random_bits(seed, view, draw, index=rows) for draw in (DOWN, RIGHT))
    low = np.uint64(2**32 - 1)
    # Crop uses the upper half of the bits and shift the lower one, so each is even on its own.
    return tuple(  # type: ignore[return-value]
        below(2 * spec.crop + 1, bits) + below(2 * spec.shift + 1, (bits & low) << np.uint64(32))
        for bits in (down, right)
    )


def _move(
    images: Tensor,
    offsets: tuple[NDArray[np.int64], NDArray[np.int64]],
    black: Tensor,
    border: int,
) -> Tensor:
    if border == 0:
        return images
    count, _, height, width = images.shape
    padded = black.view(1, -1, 1, 1).repeat(count, 1, height + 2 * border, width + 2 * border)
    padded[:, :, border : border + height, border : border + width] = images
    # Every window of every picture as a view; numpy then copies one window a picture, row by row.
    windows = np.lib.stride_tricks.sliding_window_view(padded.numpy(), (height, width), axis=(2, 3))
    down, right = offsets
    return torch.from_numpy(windows[np.arange(count), :, down, right])
