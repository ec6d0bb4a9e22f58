"""Augmentation of images, with random numbers for each image that do not depend on its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from limbeck.core.random import below, random_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.data.spec import AugmentSpec

# Indices of the draws: changing one would invalidate every cached teacher output.
CROP, SHIFT, MIRROR = 1, 2, 3


def augment(
    images: Tensor, index: Tensor, *, seed: int, view: int, spec: AugmentSpec, fill_value: Tensor
) -> Tensor:
    """Apply a random crop, shift and horizontal flip per image, each with its own random numbers.

    Cropping from an image padded by p pixels shifts it by up to p pixels, so crop and shift are one
    translation, each part drawn uniformly.

    Args:
        images: `[n, c, h, w]`.
        index: The images' rows in the split, `[n]`.
        seed: The run's seed.
        view: The variant.
        spec: The augmentation settings.
        fill_value: The fill value beyond an edge, `[c]`.
    """
    rows, border = index.numpy(), spec.crop + spec.shift
    # numpy copies a window or a mirrored half several times as fast as torch.
    pixels = images.numpy()
    if border:
        pixels = _windows(pixels, *_corner(rows, seed, view, spec), fill_value.numpy(), border)
    if spec.flip:
        mirrored = random_bits(seed, view, MIRROR, index=rows) >> np.uint64(63) == 1
        pixels = pixels if border else pixels.copy()
        pixels[mirrored] = pixels[mirrored][..., ::-1]
    return torch.from_numpy(pixels)


def _corner(
    rows: NDArray[np.int64], seed: int, view: int, spec: AugmentSpec
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the upper left corner of each image in the padded image."""
    down = right = np.zeros(len(rows), dtype=np.int64)
    for draw, reach in ((CROP, spec.crop), (SHIFT, spec.shift)):
        if reach:
            # The upper half of the bits is the vertical offset, the lower half the horizontal one.
            bits = random_bits(seed, view, draw, index=rows)
            down = down + below(2 * reach + 1, bits)
            right = right + below(2 * reach + 1, bits << np.uint64(32))
    return down, right


def _windows(
    images: NDArray[np.float32],
    down: NDArray[np.int64],
    right: NDArray[np.int64],
    fill_value: NDArray[np.float32],
    border: int,
) -> NDArray[np.float32]:
    count, channels, height, width = images.shape
    shape = (count, channels, height + 2 * border, width + 2 * border)
    padded = np.empty(shape, dtype=np.float32)
    padded[:] = fill_value[:, None, None]
    padded[:, :, border : border + height, border : border + width] = images
    # A view of every window of every image, of which one per image is copied.
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    return windows[np.arange(count), :, down, right]
