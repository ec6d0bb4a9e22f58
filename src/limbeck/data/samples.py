"""A split's rows as tensors, held in memory in the fastest form that fits."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from limbeck.data.pictures import channels_of, traits_of
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.pictures import Pictures
    from limbeck.data.preprocess import ImagePreprocess, TablePreprocess, TextPreprocess

MIB = 2**20
MOST_PROBLEMS = 10
GREY = "grey"
# A training step of a tiny net takes 1.5 ms: tensors cost it a copy, pixels a scaling too.
READY_UNDER, PIXELS_UNDER = 512 * MIB, 2048 * MIB


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
    """

    pixels: Tensor | None
    hashes: NDArray[np.uint64]
    traits: Counter[str]
    dtype: np.dtype[Any]


def scan(pictures: Pictures, prepare: ImagePreprocess, *, keep: bool, grey_only: bool) -> Scan:
    """Open and check every image of a split once.

    Args:
        pictures: The images.
        prepare: The preprocessing, for size and channels.
        keep: Whether to keep the pixels in memory.
        grey_only: Whether to stop at an image in colour, whose colours would be lost.

    Raises:
        InputError: Images cannot be opened or converted, or hold NaN or infinity; the message lists
            up to ten.
        ColourError: With `grey_only`, an image is in colour.
    """
    problems: list[Problem] = []
    hashes = np.zeros(len(pictures), dtype=np.uint64)
    traits: Counter[str] = Counter()
    pixels: NDArray[Any] | None = None
    for row, stored in pictures.stored():
        with gathering(problems):
            cell = pictures.open(row, stored)
            if grey_only and channels_of(cell) > 1:
                raise ColourError
            traits.update(traits_of(cell))
            traits[GREY] += channels_of(cell) == 1
            one = _pixels_of(pictures, prepare, row, cell)
            if pixels is None:
                pixels = np.empty((len(pictures) if keep else 1, *one.shape), dtype=one.dtype)
            _same_type(pictures, row, one.dtype, pixels.dtype)
            pixels[row if keep else 0] = one
            hashes[row] = hash_of(one)
        if len(problems) >= MOST_PROBLEMS:
            break
    if problems:
        raise InputError(*problems)
    if pixels is None:
        pixels = np.empty((0, prepare.channels, *prepare.size), dtype=np.uint8)
    return Scan(torch.from_numpy(pixels) if keep else None, hashes, traits, pixels.dtype)


def hash_of(row: NDArray[Any] | bytes) -> int:
    """Hash a row's content to a number below 2**64."""
    content = row if isinstance(row, bytes) else np.ascontiguousarray(row).data
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def read_pixels(pictures: Pictures, prepare: ImagePreprocess, rows: list[int]) -> Tensor:
    """Decode some images to one tensor `[n, c, h, w]`, uint8 or float32.

    Raises:
        InputError: An image cannot be opened or converted, or holds NaN or infinity.
    """
    cells = zip(rows, pictures.cells(rows), strict=True)
    found = [_pixels_of(pictures, prepare, row, cell) for row, cell in cells]
    return torch.from_numpy(np.stack(found))


def _pixels_of(pictures: Pictures, prepare: ImagePreprocess, row: int, cell: Any) -> NDArray[Any]:
    try:
        one = prepare.pixels(cell)
    except ValueError as error:
        raise pictures.wrong(row, str(error), f"{prepare.channels} channels") from error
    if one.dtype.kind == "f" and not np.isfinite(one).all():
        raise pictures.wrong(row, "NaN or infinity", "finite numbers")
    return one


def _same_type(pictures: Pictures, row: int, found: Any, first: Any) -> None:
    if found != first:
        kinds = {"f": "floats", "u": "whole numbers"}
        allowed = f"{kinds[first.kind]}, like the rows before"
        fix = "Store all pictures in one type: their scale follows from it."
        raise pictures.wrong(row, kinds[found.kind], allowed, fix)


class Images:
    """Images: tensors if they are small, pixels if they fit, else decoded batch by batch.

    Args:
        pictures: The images, for decoding and display.
        prepare: The preprocessing to tensors.
        pixels: The pixels kept by `scan`, or None to decode in each batch.
    """

    def __init__(self, pictures: Pictures, prepare: ImagePreprocess, pixels: Tensor | None) -> None:
        self._pictures = pictures
        self._prepare = prepare
        self._ready: Tensor | None = None
        self._pixels = pixels
        if pixels is not None and pixels.numel() * 4 <= READY_UNDER:
            self._ready, self._pixels = prepare.normalise(pixels), None

    def __len__(self) -> int:
        return len(self._pictures)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return `image`, float32 `[n, c, h, w]`."""
        if self._ready is not None:
            return {"image": self._ready.index_select(0, index)}
        if self._pixels is not None:
            return {"image": self._prepare.normalise(self._pixels.index_select(0, index))}
        pixels = read_pixels(self._pictures, self._prepare, index.tolist())
        return {"image": self._prepare.normalise(pixels)}

    def raw(self, row: int) -> dict[str, Any]:
        """Return `picture`, a PIL image as stored."""
        from PIL import Image

        cell = self._pictures.cell(row)
        if not isinstance(cell, np.ndarray):
            return {"picture": cell}
        shown = np.clip(cell / self._prepare.divide_by * 255, 0, 255).round().astype(np.uint8)
        picture = shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0)
        return {"picture": Image.fromarray(np.ascontiguousarray(picture))}


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
        self, dataset: datasets.Dataset, prepare: TablePreprocess, numbers: Tensor, places: Tensor
    ) -> None:
        self._dataset = dataset
        self._prepare = prepare
        self._numbers = numbers
        self._places = places
        # Compared bitwise: only equality matters.
        bits = np.ascontiguousarray(numbers.numpy() + 0.0).view(np.int32)
        self.cells = np.hstack([bits.astype(np.int64), places.numpy()])
        self.hashes = np.array([hash_of(row) for row in self.cells], dtype=np.uint64)

    def __len__(self) -> int:
        return len(self._numbers)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return `features`, float32 `[n, width]`."""
        numbers, places = (part.index_select(0, index) for part in (self._numbers, self._places))
        return {"features": self._prepare.features(numbers, places)}

    def raw(self, row: int) -> dict[str, Any]:
        """Return `text`: every column with its value, as stored."""
        cells = self._dataset[row]
        return {"text": ", ".join(f"{column}: {value}" for column, value in cells.items())}
