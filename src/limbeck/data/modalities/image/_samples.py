"""Splits of images, held in memory in the fastest form that fits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from limbeck.data.images import MOST_PIXELS, EncodedImages, channels_of, size_of, traits_of
from limbeck.data.modalities.image._augment import ImageAugmentation
from limbeck.data.modalities.image._mix import check_mixable
from limbeck.data.modalities.image._preprocess import ImagePreprocess
from limbeck.data.split import Division, Prepared, hash_of
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from limbeck.data.loaded import Loaded
    from limbeck.data.modalities.image import AugmentSpec, ImageSpec


MIB = 2**20
MOST_PROBLEMS = 10
TRIED = 4
"""The number of images on which transforms of a recipe are tried."""
GREY = "grey"
# A training step of a tiny net takes 1.5 ms: tensors cost it a copy, pixels a scaling too.
READY_UNDER, PIXELS_UNDER = 512 * MIB, 2048 * MIB
MOST_ENLARGED = 32
"""The largest enlargement per side: more adds no information, only memory."""


def prepare(
    column: str,
    settings: ImageSpec,
    augment: AugmentSpec | None,
    loaded: Loaded,
    division: Division,
) -> Prepared:
    """Build splits of images: size and channels fit all rows; mean and deviation are of train.

    Every image is opened once, so that a corrupt one raises here and not during training.

    Raises:
        InputError: An image cannot be opened, differs in size or type, or has NaN.
    """
    first = _first(_encoded(column, loaded, division, "train", None))
    shape = _shape(settings, first)
    size = None if settings.size else shape.size
    encoded = {name: _encoded(column, loaded, division, name, size) for name in division.rows}
    stated = bool(settings.channels or settings.mean or settings.std)
    itemsize = first.dtype.itemsize if isinstance(first, np.ndarray) else 1
    try:
        grey_only = not stated and shape.channels == 1
        scans = _scans(encoded, shape, itemsize=itemsize, grey_only=grey_only)
    except ColourError:
        shape = replace(_blank(shape.size, 3), shorter_side=shape.shorter_side)
        scans = _scans(encoded, shape, itemsize=itemsize, grey_only=False)
    _check_moves(augment, shape)
    preprocess = _scale(settings, shape, scans["train"], loaded.divide_by)
    augmentation = ImageAugmentation(augment, preprocess) if augment else None
    splits = {
        name: division.split(
            name,
            Images(one, preprocess, scans[name]),
            preprocess,
            augmentation=augmentation if name == "train" else None,
        )
        for name, one in encoded.items()
    }
    if augment:
        check_mixable(augment, splits["train"].row_labels)
    if augment and augment.transforms:
        splits["train"].__getitems__(range(min(TRIED, len(splits["train"]))))  # raises if unfit
    hashes = {name: one.hashes for name, one in scans.items()}
    return Prepared(splits, preprocess, hashes, tuple(_looks(scans, shape)))


def _scans(
    encoded: dict[str, EncodedImages],
    shape: ImagePreprocess,
    *,
    itemsize: int,
    grey_only: bool,
) -> dict[str, Scan]:
    """Open all images of all splits; the error lists every problem of every split."""
    problems: list[Problem] = []
    scans = {}
    rows = sum(len(one) for one in encoded.values())
    keep = rows * shape.channels * math.prod(shape.size) * itemsize <= PIXELS_UNDER
    for name, one in encoded.items():
        with gathering(problems):
            scans[name] = scan(one, shape, keep=keep, grey_only=grey_only)
    types = {name: str(one.dtype) for name, one in scans.items()}
    if not problems and len(set(types.values())) > 1:
        given = ", ".join(f"{dtype} in {name}" for name, dtype in types.items())
        fix = "Store all splits in one type: the pixels' scale follows from it."
        problems.append(Problem("data (images)", given, "pixels of one type", fix))
    if problems:
        raise InputError(*problems)
    return scans


def _looks(scans: dict[str, Scan], shape: ImagePreprocess) -> list[str]:
    """Return notes on images that lost information or were changed, and on split differences."""
    counts = {name: Counter(one.traits) for name, one in scans.items()}
    total = sum(len(one.hashes) for one in scans.values())
    grey = sum(one.pop(GREY, 0) for one in counts.values())
    found = {trait: count for trait, count in sum(counts.values(), Counter[str]()).items() if count}
    if shape.channels == 1:
        found["in colour, converted to grey"] = total - grey
    elif grey != total:
        found["grey among images in colour"] = grey
    return [f"{count:,} of {total:,} images are {trait}" for trait, count in found.items() if count]


def _check_moves(augment: AugmentSpec | None, shape: ImagePreprocess) -> None:
    """Raise an error if a shift can move an image out of its frame."""
    if augment and augment.crop + augment.shift >= min(shape.size):
        height, width = shape.size
        given = f"crop {augment.crop} and shift {augment.shift} for images of {height}x{width}"
        raise InputError(Problem("data.augment", given, f"less than {min(shape.size)} together"))


def _encoded(
    column: str, loaded: Loaded, division: Division, name: str, size: tuple[int, int] | None
) -> EncodedImages:
    source, rows = division.rows[name]
    files = loaded.files.get(source)
    folder = files[0].parent if files else None
    where = f"data.columns.image ({column!r} in {source})"
    return EncodedImages(loaded.splits[source], rows, column, folder=folder, where=where, size=size)


def _shape(settings: ImageSpec, first: Image.Image | NDArray[Any]) -> ImagePreprocess:
    """Determine size and channels by the first image; the scale is set when all are read."""
    stored = size_of(first)
    size = settings.sides or stored
    side = settings.resize.shorter_side if settings.resize else None
    if max(*size, side or 0) > MOST_ENLARGED * min(stored):
        allowed = f"at most {MOST_ENLARGED * min(stored)}, {MOST_ENLARGED} times the stored size"
        given = f"{side or settings.size} for images of {stored[0]}x{stored[1]}"
        fix = "Enlarging adds no information; it costs memory and time."
        where = "data.image.resize.shorter_side" if side else "data.image.size"
        raise InputError(Problem(where, given, allowed, fix))
    stated = settings.mean or settings.std or ()
    shape = _blank(size, settings.channels or len(stated) or channels_of(first))
    return replace(shape, shorter_side=side)


def _first(encoded: EncodedImages) -> Image.Image | NDArray[Any]:
    """Return the first image that can be opened: corrupt ones are reported later, all at once."""
    problems: list[Problem] = []
    for row, stored in encoded.stored():
        with gathering(problems):
            return encoded.open(row, stored)
        if len(problems) >= MOST_PROBLEMS:
            break
    raise InputError(*problems)


def _blank(size: tuple[int, int], channels: int) -> ImagePreprocess:
    return ImagePreprocess(size, channels, 1.0, (0.0,) * channels, (1.0,) * channels)


def _scale(
    settings: ImageSpec, shape: ImagePreprocess, train: Scan, divide_by: float | None
) -> ImagePreprocess:
    scale = float(divide_by or (255 if train.dtype == np.uint8 else 1))
    mean = tuple(round(float(value) / scale, 6) for value in train.mean)
    # A constant channel has standard deviation 0.
    std = tuple(round(float(value) / scale, 6) or 1.0 for value in train.std)
    return replace(shape, divide_by=scale, mean=settings.mean or mean, std=settings.std or std)


class ColourError(Exception):
    """An image is in colour after only grey ones."""


@dataclass(frozen=True)
class Scan:
    """The result of one pass over all images of a split.

    Attributes:
        pixels: All pixels, `[n, c, h, w]`, uint8 or float32; None if they were not kept.
        hashes: A hash of each image's pixels, `[n]`.
        sizes: The height and width of each image as stored, `[n, 2]`.
        traits: The number of images per property: grey, transparent and so on.
        dtype: The dtype of the pixels.
        mean: The mean of each channel over all pixels, unscaled, float64 `[c]`.
        std: The population standard deviation of each channel, unscaled, float64 `[c]`.
    """

    pixels: Tensor | None
    hashes: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    traits: Counter[str]
    dtype: np.dtype[Any]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


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
    cells = zip(rows, encoded.cells(rows), strict=True)
    found = [_pixels_of(encoded, prepare, row, cell) for row, cell in cells]
    return torch.from_numpy(np.stack(found))


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


class Images:
    """Images: tensors if they are small, pixels if they fit, else decoded batch by batch.

    Args:
        encoded: The images, for decoding and display.
        prepare: The preprocessing to tensors.
        scan: The result of the pass over them; pixels that it did not keep are decoded for each
            batch.

    Attributes:
        stored_sizes: The height and width of each image as stored, int64 `[rows, 2]`.
    """

    def __init__(self, encoded: EncodedImages, prepare: ImagePreprocess, scan: Scan) -> None:
        pixels = scan.pixels
        self.stored_sizes = scan.sizes
        self._encoded = encoded
        self._prepare = prepare
        self._ready: Tensor | None = None
        self._pixels = pixels
        if pixels is not None and pixels.numel() * 4 <= READY_UNDER:
            self._ready, self._pixels = self._normalise(pixels), None

    def __len__(self) -> int:
        return len(self._encoded)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return `image`, float32 `[n, c, h, w]`."""
        if self._ready is not None:
            return {"image": self._ready.index_select(0, index)}
        if self._pixels is not None:
            return {"image": self._normalise(self._pixels.index_select(0, index))}
        return {"image": self._normalise(read_pixels(self._encoded, self._prepare, index.tolist()))}

    def _normalise(self, pixels: Tensor) -> Tensor:
        return torch.from_numpy(self._prepare.normalise(pixels.numpy()))

    def raw(self, row: int) -> dict[str, Any]:
        """Return `image`, a PIL image as stored."""
        from PIL import Image

        cell = self._encoded.cell(row)
        if not isinstance(cell, np.ndarray):
            return {"image": cell}
        shown = np.clip(cell / self._prepare.divide_by * 255, 0, 255).round().astype(np.uint8)
        pixels = shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0)
        return {"image": Image.fromarray(np.ascontiguousarray(pixels))}
