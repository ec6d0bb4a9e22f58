"""Splits of images: in memory in the fastest form that fits, else decoded on demand."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from limbeck.data.images import EncodedImages, channels_of, size_of, upright
from limbeck.data.modalities.image._augment import ImageAugmentation
from limbeck.data.modalities.image._mix import check_mixable
from limbeck.data.modalities.image._preprocess import ImagePreprocess
from limbeck.data.modalities.image._scan import (
    GREY,
    MOST_PROBLEMS,
    ColourError,
    Scan,
    measure,
    read_pixels,
    scan,
    scan_headers,
)
from limbeck.data.split import Division, Prepared
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from limbeck.data.loaded import Loaded
    from limbeck.data.modalities.image import AugmentSpec, ImageSpec


MIB = 2**20
TRIED = 4
"""The number of images on which transforms of a recipe are tried."""
# A training step of a tiny net takes 1.5 ms: tensors cost it a copy, pixels a scaling too.
READY_UNDER, PIXELS_UNDER = 512 * MIB, 2048 * MIB
VERIFY = "data.image.verify: true finds all such images before training."
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

    Images whose pixels fit in memory are decoded once, so that a corrupt one raises here and not
    during training. Of more images only the headers are read (`data.image.verify` decodes them),
    and each batch is decoded when it is needed.

    Raises:
        InputError: An image cannot be opened, differs in size or type, or has NaN.
    """
    first = _first(_encoded(column, loaded, division, "train", None))
    shape = _shape(settings, first)
    size = None if settings.size else shape.size
    encoded = {name: _encoded(column, loaded, division, name, size) for name in division.rows}
    stated = bool(settings.channels or settings.mean or settings.std)
    itemsize = first.dtype.itemsize if isinstance(first, np.ndarray) else 1
    grey_only = not stated and shape.channels == 1
    rows = sum(map(len, encoded.values()))
    keep = rows * shape.channels * math.prod(shape.size) * itemsize <= PIXELS_UNDER
    keep = keep or settings.decode == "memory"
    notes: list[str] = []
    on_demand = _on_demand(settings, encoded, keep=keep)
    if on_demand:
        scans, shape, notes = _headers(encoded, shape, settings, grey_only=grey_only)
    else:
        try:
            scans = _scans(encoded, shape, keep=keep, grey_only=grey_only)
        except ColourError:
            shape = replace(_blank(shape.size, 3), shorter_side=shape.shorter_side)
            scans = _scans(encoded, shape, keep=keep, grey_only=False)
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
    digests = {name: one.digest for name, one in scans.items() if one.digest}
    return Prepared(splits, preprocess, hashes, (*notes, *_looks(scans, shape)), digests=digests)


def _on_demand(settings: ImageSpec, encoded: dict[str, EncodedImages], *, keep: bool) -> bool:
    """Return whether images are decoded when they are needed: if stated, else if they are many.

    Raises:
        InputError: It is stated for arrays, which need no decoding.
    """
    possible = all(one.is_encoded for one in encoded.values())
    if settings.decode == "on_demand" and not possible:
        allowed = "memory, for images that are stored as arrays"
        raise InputError(Problem("data.image.decode", "on_demand", allowed))
    if settings.verify and not (possible and (settings.decode == "on_demand" or not keep)):
        fix = "All images are decoded before training in any case: leave it out."
        allowed = "with decode: on_demand"
        raise InputError(Problem("data.image.verify", True, allowed, fix))
    if settings.decode == "memory":
        return False
    return possible and (settings.decode == "on_demand" or not keep)


def _headers(
    encoded: dict[str, EncodedImages],
    shape: ImagePreprocess,
    settings: ImageSpec,
    *,
    grey_only: bool,
) -> tuple[dict[str, Scan], ImagePreprocess, list[str]]:
    """Read the headers of all images; return the scans, the shape with its channels, and notes."""
    problems: list[Problem] = []
    scans = {}
    for name, one in encoded.items():
        with gathering(problems):
            scans[name] = scan_headers(one, shape, verify=settings.verify)
    if problems:
        raise InputError(*problems)
    if grey_only and any(len(one.hashes) > one.traits[GREY] for one in scans.values()):
        shape = replace(_blank(shape.size, 3), shorter_side=shape.shorter_side)
    rows = sum(map(len, encoded.values()))
    notes = [
        f"{rows:,} images are decoded on demand; equal images are those of equal encoded bytes"
    ]
    if settings.mean is None or settings.std is None:
        scans["train"], measured = measure(scans["train"], encoded["train"], shape)
        if measured < len(encoded["train"]):
            notes.append(
                f"mean and deviation are those of {measured:,} of {len(encoded['train']):,} "
                "training images"
            )
    return scans, shape, notes


def _scans(
    encoded: dict[str, EncodedImages],
    shape: ImagePreprocess,
    *,
    keep: bool,
    grey_only: bool,
) -> dict[str, Scan]:
    """Open all images of all splits; the error lists every problem of every split."""
    problems: list[Problem] = []
    scans = {}
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


class Images:
    """Images: tensors if they are small, pixels if they fit, else decoded batch by batch.

    A batch is decoded in as many threads as torch uses.

    Args:
        encoded: The images, for decoding and display.
        prepare: The preprocessing to tensors.
        scan: The result of the pass over them; pixels that it did not keep are decoded for each
            batch.

    Attributes:
        stored_sizes: The height and width of each image as stored, int64 `[rows, 2]`.
        decodes: Whether images are decoded for each batch, which worker processes may share.
    """

    def __init__(self, encoded: EncodedImages, prepare: ImagePreprocess, scan: Scan) -> None:
        pixels = scan.pixels
        self.stored_sizes = scan.sizes
        self._encoded = encoded
        self._prepare = prepare
        self._ready: Tensor | None = None
        self._pixels = pixels
        self.decodes = pixels is None
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
        try:
            pixels = read_pixels(self._encoded, self._prepare, index.tolist())
        except InputError as error:
            raise InputError(
                *(replace(one, fix=f"{one.fix} {VERIFY}".strip()) for one in error.problems)
            ) from error
        return {"image": self._normalise(pixels)}

    def _normalise(self, pixels: Tensor) -> Tensor:
        return torch.from_numpy(self._prepare.normalise(pixels.numpy()))

    def raw(self, row: int) -> dict[str, Any]:
        """Return `image`, a PIL image as stored, and `view`, the part that the model reads."""
        from PIL import Image

        cell = self._encoded.cell(row)
        if isinstance(cell, np.ndarray):
            shown = np.clip(cell / self._prepare.divide_by * 255, 0, 255).round().astype(np.uint8)
            pixels = shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0)
            cell = Image.fromarray(np.ascontiguousarray(pixels))
        placed, (height, width) = upright(cell), self._prepare.size
        whole = np.array([[0, 0, width, height]], np.float32)
        edges = self._prepare.restore_boxes(whole, (placed.height, placed.width))[0]
        return {"image": cell, "view": placed.crop(edges.round().astype(int).tolist())}


class StreamedImages:
    """Some images of a stream, decoded for each batch in as many threads as torch uses.

    Args:
        rows: The rows.
        column: The image column.
        prepare: The preprocessing to tensors.
        numbers: The number of each row in the stream, for messages.
        size: The required height and width as stored; None if they may differ.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        column: str,
        prepare: ImagePreprocess,
        numbers: NDArray[np.int64],
        *,
        size: tuple[int, int] | None,
    ) -> None:
        where = f"data.columns.image ({column!r} in the stream of train)"
        every = np.arange(len(rows))
        self._encoded = EncodedImages(rows, every, column, where=where, size=size, numbers=numbers)
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self._encoded)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return `image`, float32 `[n, c, h, w]`."""
        pixels = read_pixels(self._encoded, self._prepare, index.tolist())
        return {"image": torch.from_numpy(self._prepare.normalise(pixels.numpy()))}

    def raw(self, row: int) -> dict[str, Any]:
        """Return `image`, as stored."""
        return {"image": self._encoded.cell(row)}
