"""From rows, checked and divided, to splits of tensors: a function each for images and texts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from limbeck.data import tokenizer
from limbeck.data.pictures import Pictures, channels_of, size_of
from limbeck.data.preprocess import ImagePreprocess, TextPreprocess
from limbeck.data.samples import PIXELS_UNDER, Images, Texts, read_pixels
from limbeck.data.spec import ImageSpec, TextSpec
from limbeck.data.split import Split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.groups import Groups
    from limbeck.data.loaded import Loaded
    from limbeck.data.spec import DataSpec

# Whether there are colours is asked of so many pictures; mean and deviation are taken from at most
# so many if they are too large to be held.
ASKED, MEASURED = 256, 10_000


@dataclass(frozen=True)
class Division:
    """Which rows each split has.

    Attributes:
        rows: For each split the source's split and the numbers of the rows in it.
        labels: For each of the source's splits the class of each row.
        groups: For each split that has any to whom each row in it belongs, by attribute.
    """

    rows: dict[str, tuple[str, NDArray[np.int64]]]
    labels: dict[str, NDArray[np.int64]]
    groups: dict[str, Groups] = field(default_factory=dict)

    def labels_of(self, name: str) -> Tensor:
        """Give the classes of a split's rows, int64 `[rows]`."""
        source, rows = self.rows[name]
        return torch.from_numpy(self.labels[source][rows])

    def groups_of(self, name: str) -> Groups:
        """Give to whom a split's rows belong, by attribute."""
        return self.groups.get(name, {})


def texts(
    spec: DataSpec, loaded: Loaded, division: Division, *, workdir: Path
) -> tuple[dict[str, Split], TextPreprocess]:
    """Make splits of texts; a tokenizer is trained on the training rows alone."""
    column = spec.columns.text
    chosen = {
        name: loaded.splits[source].select_columns([column]).select(rows)
        for name, (source, rows) in division.rows.items()
    }
    settings = spec.text or TextSpec()
    preprocess = tokenizer.make(settings, list(chosen["train"][column]), workdir=workdir)
    splits = {
        name: Split(
            Texts(dataset, column, preprocess),
            division.labels_of(name),
            groups=division.groups_of(name),
        )
        for name, dataset in chosen.items()
    }
    return splits, preprocess


def images(
    spec: DataSpec, loaded: Loaded, division: Division
) -> tuple[dict[str, Split], ImagePreprocess, tuple[str, ...]]:
    """Make splits of pictures; size, channels, mean and deviation come from the training rows.

    Returns:
        The splits, the preprocessing, and notes for the report.

    Raises:
        InputError: A picture cannot be opened, differs in size, or has NaN.
    """
    settings = spec.image or ImageSpec()
    shape = _shape(settings, _pictures(spec, loaded, division, "train", None))
    size = None if settings.size else shape.size
    pictures = {name: _pictures(spec, loaded, division, name, size) for name in division.rows}
    pixels = {name: _held(pictures[name], shape) for name in pictures}
    measured, notes = pixels["train"], tuple[str, ...]()
    if measured is None:
        measured = _sample(pictures["train"], shape)
        notes = (f"mean and deviation measured on {len(measured)} training rows",)
    preprocess = _scale(settings, shape, measured, loaded.divide_by)
    splits = {
        name: Split(
            Images(pictures[name], preprocess, pixels[name]),
            division.labels_of(name),
            augment=spec.augment if name == "train" else None,
            black=preprocess.black(),
            groups=division.groups_of(name),
        )
        for name in pictures
    }
    return splits, preprocess, notes


def _pictures(
    spec: DataSpec, loaded: Loaded, division: Division, name: str, size: tuple[int, int] | None
) -> Pictures:
    source, rows = division.rows[name]
    column, files = spec.columns.image, loaded.files.get(source)
    folder = files[0].parent if files else None
    where = f"data.columns.image ({column!r} in {source})"
    return Pictures(loaded.splits[source], rows, column, folder=folder, where=where, size=size)


def _shape(settings: ImageSpec, pictures: Pictures) -> ImagePreprocess:
    """Settle size and channels; the scale comes later, when the pixels are known."""
    size = (settings.size, settings.size) if settings.size else size_of(pictures.cell(0))
    given = settings.mean or settings.std
    channels = settings.channels or (len(given) if given else None)
    if channels is None:
        asked = list(range(min(ASKED, len(pictures))))
        channels = max(channels_of(cell) for cell in pictures.cells(asked))
    return ImagePreprocess(size, channels, 1.0, (0.0,) * channels, (1.0,) * channels)


def _held(pictures: Pictures, shape: ImagePreprocess) -> Tensor | None:
    height, width = shape.size
    small = len(pictures) * shape.channels * height * width <= PIXELS_UNDER
    return read_pixels(pictures, shape) if small else None


def _sample(pictures: Pictures, shape: ImagePreprocess) -> Tensor:
    step = -(-len(pictures) // MEASURED)
    return read_pixels(pictures, shape, list(range(0, len(pictures), step)))


def _scale(
    settings: ImageSpec, shape: ImagePreprocess, pixels: Tensor, divide_by: float | None
) -> ImagePreprocess:
    scale = float(divide_by or (255 if pixels.dtype == torch.uint8 else 1))
    # Channel by channel in double precision: a sum over 10**8 pixels in single precision is off.
    channels = [pixels[:, number].double() / scale for number in range(shape.channels)]
    mean = settings.mean or tuple(round(values.mean().item(), 6) for values in channels)
    # A channel without any contrast would be divided by nothing.
    measured = tuple(round(values.std(correction=0).item(), 6) or 1.0 for values in channels)
    return replace(shape, divide_by=scale, mean=mean, std=settings.std or measured)
