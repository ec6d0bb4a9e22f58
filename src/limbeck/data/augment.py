"""Variants of training pictures: a pure function of (seed, view, index)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from limbeck.data.randomness import S32, below, random_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.spec import AugmentSpec

# The numbers of the draws: changing one would give every recorded answer another picture.
CROP, SHIFT, MIRROR = 1, 2, 3


def vary(
    images: Tensor, index: Tensor, *, seed: int, view: int, spec: AugmentSpec, black: Tensor
) -> Tensor:
    """Move and mirror pictures, each by random numbers of its own.

    Cutting a window out of a picture padded by p pixels moves the picture by up to p pixels, so
    crop and shift are one movement, each part of it drawn evenly.

    Args:
        images: `[n, c, h, w]`.
        index: The pictures' rows in the split, `[n]`.
        seed: The run's seed.
        view: Which variant.
        spec: What may be done.
        black: What comes in from beyond an edge, `[c]`.
    """
    rows, border = index.numpy(), spec.crop + spec.shift
    # In numpy, which copies a window or a mirrored half several times as fast as torch does.
    pixels = images.numpy()
    if border:
        pixels = _windows(pixels, *_corner(rows, seed, view, spec), black.numpy(), border)
    if spec.flip:
        mirrored = random_bits(seed, view, MIRROR, index=rows) >> np.uint64(63) == 1
        pixels = pixels if border else pixels.copy()
        pixels[mirrored] = pixels[mirrored][..., ::-1]
    return torch.from_numpy(pixels)


def _corner(
    rows: NDArray[np.int64], seed: int, view: int, spec: AugmentSpec
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw where each picture's upper left corner lies in the padded picture."""
    down = right = np.zeros(len(rows), dtype=np.int64)
    for draw, reach in ((CROP, spec.crop), (SHIFT, spec.shift)):
        if reach:
            # The upper half of the bits says how far down, the lower half how far right.
            bits = random_bits(seed, view, draw, index=rows)
            down = down + below(2 * reach + 1, bits)
            right = right + below(2 * reach + 1, bits << S32)
    return down, right


def _windows(
    images: NDArray[np.float32],
    down: NDArray[np.int64],
    right: NDArray[np.int64],
    black: NDArray[np.float32],
    border: int,
) -> NDArray[np.float32]:
    count, channels, height, width = images.shape
    shape = (count, channels, height + 2 * border, width + 2 * border)
    padded = np.empty(shape, dtype=np.float32)
    padded[:] = black[:, None, None]
    padded[:, :, border : border + height, border : border + width] = images
    # Every window of every picture as a view, of which one a picture is copied.
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    return windows[np.arange(count), :, down, right]
