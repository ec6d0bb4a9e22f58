"""Augmentation of images, with random numbers for each image that do not depend on its batch."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from limbeck.data.spec import AugmentSpec

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S27, S30, S31, S32 = (np.uint64(shift) for shift in (27, 30, 31, 32))
MASK = 2**64 - 1


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits bijectively: the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    bits = (bits ^ (bits >> S30)) * FIRST
    bits = (bits ^ (bits >> S27)) * SECOND
    return bits ^ (bits >> S31)


# All batches of an epoch share their words.
@lru_cache(maxsize=64)
def _state(words: tuple[int, ...]) -> NDArray[np.uint64]:
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        state = _mix((state ^ np.uint64(word & MASK)) + GOLDEN)
    return state


def random_bits(*words: int, index: ArrayLike) -> NDArray[np.uint64]:
    """Draw 64 random bits for each sample.

    Args:
        words: The purpose of the numbers: a seed, a view, the index of the draw.
        index: The sample indices, `[n]`.

    Example:
        >>> all_at_once = random_bits(0, 7, index=[3, 4, 5])
        >>> bool(all_at_once[2] == random_bits(0, 7, index=[5])[0])
        True
    """
    return _mix((_state(words) ^ np.asarray(index, dtype=np.uint64)) + GOLDEN)


def below(bound: int, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Convert the upper 32 random bits to integers in [0, bound), uniform up to one in 2**32.

    Example:
        >>> bool(below(3, random_bits(1, index=range(8))).max() <= 2)
        True
    """
    return (((bits >> S32) * np.uint64(bound)) >> S32).astype(np.int64)


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
            right = right + below(2 * reach + 1, bits << S32)
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
