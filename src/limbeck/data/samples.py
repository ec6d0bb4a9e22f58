"""A split's rows as tensors, held in memory in the fastest form that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    import datasets
    from torch import Tensor

    from limbeck.data.pictures import Pictures
    from limbeck.data.preprocess import ImagePreprocess, TablePreprocess, TextPreprocess

MIB = 2**20
# A training step of a tiny net takes 1.5 ms: ready tensors cost it a copy, pixels a scaling too.
READY_UNDER, PIXELS_UNDER = 512 * MIB, 2048 * MIB


class Samples(Protocol):
    """The rows of a split, as tensors."""

    def __len__(self) -> int:
        """Count the rows."""
        ...

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Give the inputs of some rows, by name."""
        ...

    def raw(self, row: int) -> dict[str, Any]:
        """Give one row as it was, to be shown."""
        ...


def read_pixels(
    pictures: Pictures, prepare: ImagePreprocess, rows: list[int] | None = None
) -> Tensor:
    """Decode pictures to one tensor `[n, c, h, w]`, uint8 or float32.

    Args:
        pictures: The pictures.
        prepare: Their size and channels.
        rows: Which ones; all if None.

    Raises:
        InputError: One cannot be opened or converted, or some hold NaN or infinity.
    """
    pixels: np.ndarray[Any, Any] | None = None
    count = len(pictures) if rows is None else len(rows)
    for place, cell in enumerate(pictures.cells(rows)):
        row = place if rows is None else rows[place]
        try:
            one = prepare.pixels(cell)
        except ValueError as error:
            raise pictures.wrong(row, str(error), f"{prepare.channels} channels") from error
        if pixels is None:
            pixels = np.empty((count, *one.shape), dtype=one.dtype)
        pixels[place] = one
    if pixels is None:
        pixels = np.empty((0, prepare.channels, *prepare.size), dtype=np.uint8)
    _refuse_nan(pictures, pixels, rows)
    return torch.from_numpy(pixels)


def _refuse_nan(pictures: Pictures, pixels: np.ndarray[Any, Any], rows: list[int] | None) -> None:
    if pixels.dtype.kind != "f":
        return
    wrong = np.flatnonzero(~np.isfinite(pixels).all(axis=(1, 2, 3)))
    if len(wrong):
        first = int(wrong[0]) if rows is None else rows[wrong[0]]
        given = f"NaN or infinity in {len(wrong)} of {len(pixels)} pictures, this the first"
        raise pictures.wrong(first, given, "finite numbers")


class Images:
    """Pictures: ready tensors if they are small, pixels if they fit, else decoded batch by batch.

    Args:
        pictures: The pictures, for what is not held and for showing.
        prepare: How they become tensors.
        pixels: What `read_pixels` gave, or None to decode in each batch.
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
        """Give `image`, float32 `[n, c, h, w]`."""
        if self._ready is not None:
            return {"image": self._ready.index_select(0, index)}
        if self._pixels is not None:
            return {"image": self._prepare.normalise(self._pixels.index_select(0, index))}
        pixels = read_pixels(self._pictures, self._prepare, index.tolist())
        return {"image": self._prepare.normalise(pixels)}

    def raw(self, row: int) -> dict[str, Any]:
        """Give `picture`, a PIL image as it was stored."""
        from PIL import Image

        cell = self._pictures.cell(row)
        if not isinstance(cell, np.ndarray):
            return {"picture": cell}
        shown = np.clip(cell / self._prepare.divide_by * 255, 0, 255).round().astype(np.uint8)
        picture = shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0)
        return {"picture": Image.fromarray(np.ascontiguousarray(picture))}


class Texts:
    """Texts as one row of token numbers, and where each text begins.

    Args:
        dataset: The rows, for showing.
        column: The column of the texts.
        prepare: How they become token numbers.
    """

    def __init__(self, dataset: datasets.Dataset, column: str, prepare: TextPreprocess) -> None:
        self._dataset = dataset
        self._column = column
        self._pad = prepare.pad
        tokens = list(prepare.tokens(list(dataset[column])))
        self._lengths = torch.tensor([len(text) for text in tokens], dtype=torch.int64)
        self._starts = self._lengths.cumsum(0) - self._lengths
        self._flat = torch.from_numpy(np.concatenate(tokens))

    def __len__(self) -> int:
        return len(self._lengths)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Give `input_ids` and `attention_mask`, int64 `[n, longest of the batch]`."""
        lengths = self._lengths[index, None]
        places = torch.arange(int(lengths.max()))
        mask = places < lengths
        where = (self._starts[index, None] + places).clamp_(max=len(self._flat) - 1)
        tokens = self._flat[where].to(torch.int64).masked_fill_(~mask, self._pad)
        return {"input_ids": tokens, "attention_mask": mask.to(torch.int64)}

    def raw(self, row: int) -> dict[str, Any]:
        """Give `text`, as it was stored."""
        return {"text": self._dataset[row][self._column]}


class Rows:
    """Rows of a table, held as the numbers and the places of the ones that features consist of.

    Args:
        dataset: The rows, for showing.
        prepare: How they become features.
        numbers: What `TablePreprocess.numbers` gave.
        places: What `TablePreprocess.places` gave.
    """

    def __init__(
        self, dataset: datasets.Dataset, prepare: TablePreprocess, numbers: Tensor, places: Tensor
    ) -> None:
        self._dataset = dataset
        self._prepare = prepare
        self._numbers = numbers
        self._places = places

    def __len__(self) -> int:
        return len(self._numbers)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Give `features`, float32 `[n, width]`."""
        numbers, places = (part.index_select(0, index) for part in (self._numbers, self._places))
        return {"features": self._prepare.features(numbers, places)}

    def raw(self, row: int) -> dict[str, Any]:
        """Give `text`: every column with its value, as it was stored."""
        cells = self._dataset[row]
        return {"text": ", ".join(f"{column}: {value}" for column, value in cells.items())}
