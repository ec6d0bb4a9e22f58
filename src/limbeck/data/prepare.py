"""A split's rows as tensors, held in memory in the fastest form that fits."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from limbeck.data import tokenizers
from limbeck.data.images import EncodedImages, channels_of, size_of, traits_of
from limbeck.data.preprocess import ImagePreprocess, Preprocess
from limbeck.data.spec import ImageSpec, TextSpec
from limbeck.data.split import Split
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    import datasets
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from limbeck.data.load import Groups
    from limbeck.data.loaded import Loaded
    from limbeck.data.preprocess import TablePreprocess, TextPreprocess
    from limbeck.data.spec import DataSpec


MIB = 2**20
MOST_PROBLEMS = 10
GREY = "grey"
# A training step of a tiny net takes 1.5 ms: tensors cost it a copy, pixels a scaling too.
READY_UNDER, PIXELS_UNDER = 512 * MIB, 2048 * MIB
MOST_ENLARGED = 32
"""The largest enlargement per side: more adds no information, only memory."""


class Samples(Protocol):
    """The rows of a split, as tensors."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return the inputs of some rows, by name."""
        ...

    def raw(self, row: int) -> dict[str, Any]:
        """Return one row as stored, for display."""
        ...


class ColourError(Exception):
    """An image is in colour after only grey ones."""


@dataclass(frozen=True)
class Scan:
    """The result of one pass over all images of a split.

    Attributes:
        pixels: All pixels, `[n, c, h, w]`, uint8 or float32; None if they were not kept.
        hashes: A hash of each image's pixels, `[n]`.
        traits: The number of images per property: grey, transparent and so on.
        dtype: The dtype of the pixels.
        mean: The mean of each channel over all pixels, unscaled, float64 `[c]`.
        std: The population standard deviation of each channel, unscaled, float64 `[c]`.
    """

    pixels: Tensor | None
    hashes: NDArray[np.uint64]
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
    traits: Counter[str] = Counter()
    pixels: NDArray[Any] | None = None
    scaler = StandardScaler()
    for row, stored in encoded.stored():
        with gathering(problems):
            cell = encoded.open(row, stored)
            if grey_only and channels_of(cell) > 1:
                raise ColourError
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


def hash_of(row: NDArray[Any] | bytes) -> int:
    """Hash a row's content to a number below 2**64."""
    content = row if isinstance(row, bytes) else np.ascontiguousarray(row).data
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


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
        raise encoded.error(row, str(error), f"{prepare.channels} channels") from error
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
        pixels: The pixels kept by `scan`, or None to decode in each batch.
    """

    def __init__(
        self, encoded: EncodedImages, prepare: ImagePreprocess, pixels: Tensor | None
    ) -> None:
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


class Texts:
    """Texts as one concatenated array of token ids, and the start of each text.

    Args:
        dataset: The rows, for display.
        column: The text column.
        prepare: The preprocessing to token ids.
        where: The key in the recipe, for messages.

    Attributes:
        cut: The number of texts truncated at the preprocessing's `max_length`.
        hashes: A hash of each text, ignoring case and spaces, `[n]`.

    Raises:
        InputError: The tokenizer fails, or has no token for a text.
    """

    def __init__(
        self, dataset: datasets.Dataset, column: str, prepare: TextPreprocess, *, where: str
    ) -> None:
        self._dataset = dataset
        self._column = column
        self._pad = prepare.pad
        texts = list(dataset[column])
        tokens, cut = _tokens(prepare, texts, where)
        self.cut = sum(cut)
        # Copies in another case are copies, too.
        plain = (" ".join(text.casefold().split()) for text in texts)
        self.hashes = np.array([hash_of(text.encode()) for text in plain], dtype=np.uint64)
        self._lengths = torch.tensor([len(text) for text in tokens], dtype=torch.int64)
        self._starts = self._lengths.cumsum(0) - self._lengths
        self._flat = torch.from_numpy(np.concatenate(tokens))

    def __len__(self) -> int:
        return len(self._lengths)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, int64 `[n, longest of the batch]`."""
        lengths = self._lengths[index, None]
        places = torch.arange(int(lengths.max()))
        mask = places < lengths
        where = (self._starts[index, None] + places).clamp_(max=len(self._flat) - 1)
        tokens = self._flat[where].to(torch.int64).masked_fill_(~mask, self._pad)
        return {"input_ids": tokens, "attention_mask": mask.to(torch.int64)}

    def raw(self, row: int) -> dict[str, Any]:
        """Return `text`, as stored."""
        return {"text": self._dataset[row][self._column]}


def _tokens(
    prepare: TextPreprocess, texts: list[str], where: str
) -> tuple[list[NDArray[np.int32]], list[bool]]:
    try:
        found = list(prepare.tokens(texts))
    # The library raises plain Exception, for instance if the unknown token is missing.
    except Exception as error:
        allowed = "a tokenizer that can encode every text"
        raise InputError(Problem("data.text.tokenizer", str(error), allowed)) from error
    empty = [row for row, (tokens, _) in enumerate(found) if not len(tokens)]
    if empty:
        given = f"no token in row {empty[0]}, {texts[empty[0]]!r} ({len(empty)} such rows)"
        raise InputError(Problem(where, given, "a text with at least one token in every row"))
    return [tokens for tokens, _ in found], [cut for _, cut in found]


class Rows:
    """Table rows, held as numeric features and indices of one-hot features.

    Args:
        dataset: The rows, for display.
        prepare: The preprocessing to features.
        numbers: The result of `TablePreprocess.numbers`.
        places: The result of `TablePreprocess.places`.

    Attributes:
        cells: Codes of each row's values, int64 `[n, columns]`.
        hashes: A hash of each row's features, `[n]`.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        prepare: TablePreprocess,
        numbers: NDArray[np.float32],
        places: NDArray[np.int64],
    ) -> None:
        self._dataset = dataset
        self._prepare = prepare
        self._numbers = numbers
        self._places = places
        # Compared bitwise: only equality matters.
        bits = (numbers + np.float32(0)).view(np.int32)
        self.cells = np.hstack([bits.astype(np.int64), places])
        self.hashes = np.array([hash_of(row) for row in self.cells], dtype=np.uint64)

    def __len__(self) -> int:
        return len(self._numbers)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return `features`, float32 `[n, width]`."""
        rows = index.numpy()
        features = self._prepare.features(self._numbers[rows], self._places[rows])
        return {"features": torch.from_numpy(features)}

    def raw(self, row: int) -> dict[str, Any]:
        """Return `text`: every column with its value, as stored."""
        cells = self._dataset[row]
        return {"text": ", ".join(f"{column}: {value}" for column, value in cells.items())}


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
    preprocess = tokenizers.make(settings, list(chosen["train"][column]), workdir=workdir)
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
    first = _first(_encoded(spec, loaded, division, "train", None))
    shape = _shape(settings, first)
    size = None if settings.size else shape.size
    encoded = {name: _encoded(spec, loaded, division, name, size) for name in division.rows}
    stated = bool(settings.channels or settings.mean or settings.std)
    itemsize = first.dtype.itemsize if isinstance(first, np.ndarray) else 1
    try:
        grey_only = not stated and shape.channels == 1
        scans = _scans(encoded, shape, itemsize=itemsize, grey_only=grey_only)
    except ColourError:
        shape = _blank(shape.size, 3)
        scans = _scans(encoded, shape, itemsize=itemsize, grey_only=False)
    _check_moves(spec, shape)
    preprocess = _scale(settings, shape, scans["train"], loaded.divide_by)
    splits = {
        name: Split(
            Images(encoded[name], preprocess, scans[name].pixels),
            division.labels_of(name),
            augment=spec.augment if name == "train" else None,
            fill_value=torch.from_numpy(preprocess.fill_value()),
            groups=division.groups_of(name),
        )
        for name in encoded
    }
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


def _check_moves(spec: DataSpec, shape: ImagePreprocess) -> None:
    """Raise an error if a shift can move an image out of its frame."""
    augment = spec.augment
    if augment and augment.crop + augment.shift >= min(shape.size):
        height, width = shape.size
        given = f"crop {augment.crop} and shift {augment.shift} for images of {height}x{width}"
        raise InputError(Problem("data.augment", given, f"less than {min(shape.size)} together"))


def _encoded(
    spec: DataSpec, loaded: Loaded, division: Division, name: str, size: tuple[int, int] | None
) -> EncodedImages:
    source, rows = division.rows[name]
    column, files = spec.columns.image, loaded.files.get(source)
    folder = files[0].parent if files else None
    where = f"data.columns.image ({column!r} in {source})"
    return EncodedImages(loaded.splits[source], rows, column, folder=folder, where=where, size=size)


def _shape(settings: ImageSpec, first: Image.Image | NDArray[Any]) -> ImagePreprocess:
    """Determine size and channels by the first image; the scale is set when all are read."""
    stored = size_of(first)
    size = (settings.size, settings.size) if settings.size else stored
    if max(size) > MOST_ENLARGED * min(stored):
        allowed = f"at most {MOST_ENLARGED * min(stored)}, {MOST_ENLARGED} times the stored size"
        given = f"{settings.size} for images of {stored[0]}x{stored[1]}"
        fix = "Enlarging adds no information; it costs memory and time."
        raise InputError(Problem("data.image.size", given, allowed, fix))
    stated = settings.mean or settings.std or ()
    return _blank(size, settings.channels or len(stated) or channels_of(first))


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
