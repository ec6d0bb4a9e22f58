"""Tensor splits from checked rows: one function each for images and texts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from limbeck.data import tokenizer
from limbeck.data.pictures import Pictures, channels_of, size_of
from limbeck.data.preprocess import ImagePreprocess, Preprocess
from limbeck.data.samples import (
    GREY,
    MOST_PROBLEMS,
    PIXELS_UNDER,
    ColourError,
    Images,
    Scan,
    Texts,
    read_pixels,
    scan,
)
from limbeck.data.spec import ImageSpec, TextSpec
from limbeck.data.split import Split
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from limbeck.data.groups import Groups
    from limbeck.data.loaded import Loaded
    from limbeck.data.spec import DataSpec

# The maximum number of images for mean and deviation if all do not fit in memory.
MEASURED = 10_000


@dataclass(frozen=True)
class Division:
    """The rows of each split.

    Attributes:
        rows: The source split and the row indices in it, by split.
        labels: The class of each row, by source split.
        groups: The sensitive features of each row, by split and column, where there are any.
    """

    rows: dict[str, tuple[str, NDArray[np.int64]]]
    labels: dict[str, NDArray[np.int64]]
    groups: dict[str, Groups] = field(default_factory=dict)

    def labels_of(self, name: str) -> Tensor:
        """Return the classes of a split's rows, int64 `[rows]`."""
        source, rows = self.rows[name]
        return torch.from_numpy(self.labels[source][rows])

    def groups_of(self, name: str) -> Groups:
        """Return the sensitive features of a split's rows, by column."""
        return self.groups.get(name, {})


@dataclass(frozen=True)
class Prepared:
    """Splits ready for batches.

    Attributes:
        splits: Train, validation and test.
        preprocess: The preprocessing of their rows.
        hashes: The hash of each row's model input, by split.
        notes: Inferred, dropped or changed values, for the report.
        expected: The share of rows expected to equal a training row by coincidence.
    """

    splits: dict[str, Split]
    preprocess: Preprocess
    hashes: dict[str, NDArray[np.uint64]]
    notes: tuple[str, ...] = ()
    expected: float = 0.0


def texts(spec: DataSpec, loaded: Loaded, division: Division, *, workdir: Path) -> Prepared:
    """Build splits of texts; a tokenizer is trained on the training rows only.

    Raises:
        InputError: The tokenizer is missing or cannot encode the texts.
    """
    column = spec.columns.text
    chosen = {
        name: loaded.splits[source].select_columns([column]).select(rows)
        for name, (source, rows) in division.rows.items()
    }
    settings = spec.text or TextSpec()
    preprocess = tokenizer.make(settings, list(chosen["train"][column]), workdir=workdir)
    where = f"data.columns.text ({column!r})"
    samples = {
        name: Texts(dataset, column, preprocess, where=f"{where[:-1]} in {name})")
        for name, dataset in chosen.items()
    }
    splits = {
        name: Split(one, division.labels_of(name), groups=division.groups_of(name))
        for name, one in samples.items()
    }
    cut = [
        f"{one.cut:,} of {len(one):,} in {name} ({one.cut / len(one):.1%})"
        for name, one in samples.items()
        if one.cut
    ]
    note = f"texts cut at data.text.max_length, {settings.max_length} tokens: {', '.join(cut)}"
    hashes = {name: one.hashes for name, one in samples.items()}
    return Prepared(splits, preprocess, hashes, (note,) if cut else ())


def images(spec: DataSpec, loaded: Loaded, division: Division) -> Prepared:
    """Build splits of images: size and channels fit all rows; mean and deviation are of train.

    Every image is opened once, so that a corrupt one raises here and not during training.

    Raises:
        InputError: An image cannot be opened, differs in size or type, or has NaN.
    """
    settings = spec.image or ImageSpec()
    shape = _shape(settings, _pictures(spec, loaded, division, "train", None))
    size = None if settings.size else shape.size
    pictures = {name: _pictures(spec, loaded, division, name, size) for name in division.rows}
    stated = bool(settings.channels or settings.mean or settings.std)
    try:
        scans = _scans(pictures, shape, grey_only=not stated and shape.channels == 1)
    except ColourError:
        shape = _blank(shape.size, 3)
        scans = _scans(pictures, shape, grey_only=False)
    _check_moves(spec, shape)
    measured = scans["train"].pixels
    notes = _looks(scans, shape)
    if measured is None:
        measured = _sample(pictures["train"], shape)
        notes.append(f"mean and deviation measured on {len(measured)} training rows")
    preprocess = _scale(settings, shape, measured, loaded.divide_by)
    splits = {
        name: Split(
            Images(pictures[name], preprocess, scans[name].pixels),
            division.labels_of(name),
            augment=spec.augment if name == "train" else None,
            black=preprocess.black(),
            groups=division.groups_of(name),
        )
        for name in pictures
    }
    hashes = {name: one.hashes for name, one in scans.items()}
    return Prepared(splits, preprocess, hashes, tuple(notes))


def _scans(
    pictures: dict[str, Pictures], shape: ImagePreprocess, *, grey_only: bool
) -> dict[str, Scan]:
    """Open all images of all splits; the error lists every problem of every split."""
    problems: list[Problem] = []
    scans = {}
    for name, one in pictures.items():
        keep = len(one) * shape.channels * math.prod(shape.size) <= PIXELS_UNDER
        with gathering(problems):
            scans[name] = scan(one, shape, keep=keep, grey_only=grey_only)
    types = {name: str(one.dtype) for name, one in scans.items()}
    if not problems and len(set(types.values())) > 1:
        given = ", ".join(f"{dtype} in {name}" for name, dtype in types.items())
        fix = "Store all splits in one type: the pixels' scale follows from it."
        problems.append(Problem("data (pictures)", given, "pixels of one type", fix))
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
        found["grey among pictures in colour"] = grey
    return [
        f"{count:,} of {total:,} pictures are {trait}" for trait, count in found.items() if count
    ]


def _check_moves(spec: DataSpec, shape: ImagePreprocess) -> None:
    """Raise an error if a shift can move an image out of its frame."""
    augment = spec.augment
    if augment and augment.crop + augment.shift >= min(shape.size):
        height, width = shape.size
        given = f"crop {augment.crop} and shift {augment.shift} for pictures of {height}x{width}"
        raise InputError(Problem("data.augment", given, f"less than {min(shape.size)} together"))


def _pictures(
    spec: DataSpec, loaded: Loaded, division: Division, name: str, size: tuple[int, int] | None
) -> Pictures:
    source, rows = division.rows[name]
    column, files = spec.columns.image, loaded.files.get(source)
    folder = files[0].parent if files else None
    where = f"data.columns.image ({column!r} in {source})"
    return Pictures(loaded.splits[source], rows, column, folder=folder, where=where, size=size)


def _shape(settings: ImageSpec, pictures: Pictures) -> ImagePreprocess:
    """Determine size, and channels by the first rows; the scale is set when all pixels are read."""
    first = _first(pictures)
    size = (settings.size, settings.size) if settings.size else size_of(first)
    given = settings.mean or settings.std
    channels = settings.channels or (len(given) if given else None)
    if channels is None:
        channels = channels_of(first)
    return _blank(size, channels)


def _first(pictures: Pictures) -> Image.Image | NDArray[Any]:
    """Return the first image that can be opened: corrupt ones are reported later, all at once."""
    problems: list[Problem] = []
    for row, stored in pictures.stored():
        with gathering(problems):
            return pictures.open(row, stored)
        if len(problems) >= MOST_PROBLEMS:
            break
    raise InputError(*problems)


def _blank(size: tuple[int, int], channels: int) -> ImagePreprocess:
    return ImagePreprocess(size, channels, 1.0, (0.0,) * channels, (1.0,) * channels)


def _sample(pictures: Pictures, shape: ImagePreprocess) -> Tensor:
    step = -(-len(pictures) // MEASURED)
    return read_pixels(pictures, shape, list(range(0, len(pictures), step)))


def _scale(
    settings: ImageSpec, shape: ImagePreprocess, pixels: Tensor, divide_by: float | None
) -> ImagePreprocess:
    scale = float(divide_by or (255 if pixels.dtype == torch.uint8 else 1))
    # Per channel in double precision: a sum over 10**8 pixels in single precision is inexact.
    channels = [pixels[:, number].double() / scale for number in range(shape.channels)]
    mean = settings.mean or tuple(round(values.mean().item(), 6) for values in channels)
    # A constant channel has standard deviation 0.
    measured = tuple(round(values.std(correction=0).item(), 6) or 1.0 for values in channels)
    return replace(shape, divide_by=scale, mean=mean, std=settings.std or measured)
