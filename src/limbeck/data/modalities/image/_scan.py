"""One pass over the images of a split: all pixels, or the headers of encoded images alone."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from limbeck.data.headers import headers
from limbeck.data.images import (
    MOST_PIXELS,
    EncodedImages,
    channels_of,
    size_of,
    traits_of,
)
from limbeck.data.split import hash_of
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.modalities.image._preprocess import ImagePreprocess

MIB = 2**20
MOST_PROBLEMS = 10
GREY = "grey"
MEASURED, AT_ONCE = 10_000, 64
"""The most training images whose pixels give mean and deviation, and how many are decoded at once,
if images are decoded on demand."""


class ColourError(Exception):
    """An image is in colour after only grey ones."""


@dataclass(frozen=True)
class Scan:
    """The result of one pass over all images of a split.

    Attributes:
        pixels: All pixels, `[n, c, h, w]`, uint8 or float32; None if they were not kept.
        hashes: A hash of each image's pixels, or of its encoded bytes, uint64 `[n]`.
        sizes: The height and width of each image as stored, `[n, 2]`.
        traits: The number of images per property: grey, transparent and so on.
        dtype: The dtype of the pixels.
        mean: The mean of each channel over all pixels, unscaled, float64 `[c]`.
        std: The population standard deviation of each channel, unscaled, float64 `[c]`.
        digest: A hash of the encoded bytes of all images in order; empty if pixels were read.
    """

    pixels: Tensor | None
    hashes: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    traits: Counter[str]
    dtype: np.dtype[Any]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    digest: str = ""


def scan(encoded: EncodedImages, prepare: ImagePreprocess, *, keep: bool, grey_only: bool) -> Scan:
    """Open and check every image of a split once.

    Args:
        encoded: The images.
        prepare: The preprocessing, for size and channels.
        keep: Whether to keep the pixels in memory.
        grey_only: Whether to stop at an image in colour, whose colours would be lost.

    Raises:
        InputError: Images cannot be opened or converted, or hold NaN or infinity; the message lists
            up to ten.
        ColourError: With `grey_only`, an image is in colour.
    """
    problems: list[Problem] = []
    hashes = np.zeros(len(encoded), dtype=np.uint64)
    sizes = np.zeros((len(encoded), 2), dtype=np.int64)
    traits: Counter[str] = Counter()
    pixels: NDArray[Any] | None = None
    scaler = StandardScaler()
    for row, stored in encoded.stored():
        with gathering(problems):
            cell = encoded.open(row, stored)
            if grey_only and channels_of(cell) > 1:
                raise ColourError
            sizes[row] = size_of(cell)
            traits.update(traits_of(cell))
            traits[GREY] += channels_of(cell) == 1
            one = _pixels_of(encoded, prepare, row, cell)
            if pixels is None:
                pixels = np.empty((len(encoded) if keep else 1, *one.shape), dtype=one.dtype)
            _same_type(encoded, row, one.dtype, pixels.dtype)
            pixels[row if keep else 0] = one
            hashes[row] = hash_of(one)
            if not keep:
                _measure(scaler, one[None])
        if len(problems) >= MOST_PROBLEMS:
            break
    if problems:
        raise InputError(*problems)
    if pixels is None:
        pixels = np.empty((0, prepare.channels, *prepare.size), dtype=np.uint8)
    for block in _blocks(pixels) if keep else ():
        _measure(scaler, block)
    return Scan(
        torch.from_numpy(pixels) if keep else None,
        hashes,
        sizes,
        traits,
        pixels.dtype,
        mean=scaler.mean_,
        std=np.sqrt(scaler.var_),
    )


def scan_headers(encoded: EncodedImages, prepare: ImagePreprocess, *, verify: bool) -> Scan:
    """Read the header of every image of a split and hash its bytes, without decoding it.

    Args:
        encoded: The images.
        prepare: The preprocessing, whose resizing must be possible.
        verify: Whether to decode each image as well, to find corrupt ones.

    Raises:
        InputError: Images cannot be opened or resized; the message lists up to ten.
    """
    problems: list[Problem] = []
    hashes = np.zeros(len(encoded), dtype=np.uint64)
    sizes = np.zeros((len(encoded), 2), dtype=np.int64)
    traits: Counter[str] = Counter()
    whole = hashlib.sha256()
    for row, header in headers(encoded, verify=verify, threads=torch.get_num_threads()):
        with gathering(problems):
            if isinstance(header, InputError):
                raise header
            height, width = prepare.resized(*header.size)
            if height * width > MOST_PIXELS:
                given = f"an image that becomes {height}x{width} by data.image.resize"
                raise encoded.error(row, given, f"at most {MOST_PIXELS:,} pixels")
            sizes[row] = header.size
            traits.update(header.traits)
            traits[GREY] += header.channels == 1
            whole.update(header.digest)
            hashes[row] = int.from_bytes(header.digest[:8], "little")
        if len(problems) >= MOST_PROBLEMS:
            break
    if problems:
        raise InputError(*problems)
    zero = np.zeros(prepare.channels)
    dtype = np.dtype(np.uint8)
    return Scan(None, hashes, sizes, traits, dtype, zero, zero + 1, digest=whole.hexdigest())


def measure(found: Scan, encoded: EncodedImages, prepare: ImagePreprocess) -> tuple[Scan, int]:
    """Compute mean and deviation from at most 10,000 images, spread evenly over the split.

    Returns:
        The scan with them, and the number of images.

    Raises:
        InputError: Images cannot be decoded; the message lists up to ten.
    """
    problems: list[Problem] = []
    scaler = StandardScaler()
    rows = np.linspace(0, len(encoded) - 1, min(len(encoded), MEASURED)).round().astype(np.int64)
    for start in range(0, len(rows), AT_ONCE):
        with gathering(problems):
            _measure(
                scaler,
                read_pixels(encoded, prepare, rows[start : start + AT_ONCE].tolist()).numpy(),
            )
        if len(problems) >= MOST_PROBLEMS:
            break
    if problems:
        raise InputError(*problems)
    return replace(found, mean=scaler.mean_, std=np.sqrt(scaler.var_)), len(rows)


def _blocks(pixels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Split images into blocks of at most 64 MiB in double precision, or of one image."""
    rows = max(1, 64 * MIB // max(1, 8 * math.prod(pixels.shape[1:])))
    return (pixels[start : start + rows] for start in range(0, len(pixels), rows))


def _measure(scaler: StandardScaler, block: NDArray[Any]) -> None:
    """Update mean and variance per channel in double precision."""
    channels = block.transpose(0, 2, 3, 1).reshape(-1, block.shape[1])
    scaler.partial_fit(channels.astype(np.float64))


def read_pixels(encoded: EncodedImages, prepare: ImagePreprocess, rows: list[int]) -> Tensor:
    """Decode some images to one tensor `[n, c, h, w]`, uint8 or float32.

    Raises:
        InputError: An image cannot be opened or converted, or holds NaN or infinity.
    """

    def pixels(stored: tuple[int, Any]) -> NDArray[Any]:
        row, cell = stored
        return _pixels_of(encoded, prepare, row, encoded.open(row, cell))

    threads = min(torch.get_num_threads(), len(rows))  # one in a worker process
    if threads < 2:
        return torch.from_numpy(np.stack([pixels(one) for one in encoded.stored(rows)]))
    with ThreadPoolExecutor(threads) as pool:
        return torch.from_numpy(np.stack(list(pool.map(pixels, encoded.stored(rows)))))


def _pixels_of(
    encoded: EncodedImages, prepare: ImagePreprocess, row: int, cell: Any
) -> NDArray[Any]:
    try:
        one = prepare.pixels(cell)
    except ValueError as error:
        allowed = f"{prepare.channels} channels, and at most {MOST_PIXELS:,} pixels"
        raise encoded.error(row, str(error), allowed) from error
    if one.dtype.kind == "f" and not np.isfinite(one).all():
        raise encoded.error(row, "NaN or infinity", "finite numbers")
    return one


def _same_type(encoded: EncodedImages, row: int, found: Any, first: Any) -> None:
    if found != first:
        kinds = {"f": "floats", "u": "whole numbers"}
        allowed = f"{kinds[first.kind]}, like the rows before"
        fix = "Store all images in one type: their scale follows from it."
        raise encoded.error(row, kinds[found.kind], allowed, fix)
