"""A class per pixel: masks of semantic segmentation, which move with their image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from limbeck.data.images import EncodedImages, referenced_files, size_of
from limbeck.data.label import UNLABELLED, LabelKind, Labels, Loadable, PlacesLabels, Spatial
from limbeck.data.settings import Settings, duplicates
from limbeck.errors import InputError, LimbeckError, Problem, gathering

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from limbeck.data.preprocess import Preprocess
    from limbeck.data.rows import Batch, RowLabels, Samples
    from limbeck.data.spec import DataSpec

VALUES = 256
MODES = {"L", "P", "1"}
"""PIL's modes of one number per pixel: grey, an index into a palette, and black and white."""
MOST_PROBLEMS = 10
KEPT_UNDER = 2 * 2**30
"""Masks of more bytes are decoded for each batch."""


class MaskSpec(Settings):
    """Settings of masks of semantic segmentation: encoded images with a class number per pixel.

    Attributes:
        column: The column of the masks: grey or palette images, of the size of their image.
        classes: The class names, in the order of the numbers; the numbers if not given.
        ignore: The number of pixels without a class: they count in no loss and no score.
    """

    column: str = "mask"
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=VALUES)] | None = None
    ignore: Annotated[int, Field(ge=0, lt=VALUES)] | None = 255


class MaskKeys(Settings):
    """The keys of labels that are masks.

    Attributes:
        masks: The masks of semantic segmentation; the label column is then not used.
    """

    masks: MaskSpec | None = None


@dataclass(frozen=True)
class MaskLabels(Labels):
    """The masks of the source's rows; the stratum of a row is the rarest class in its mask.

    Attributes:
        encoded: The masks, by the source's split.
        counts: The number of pixels of each value, int64 `[rows, 256]`, by the source's split.
        sizes: The height and width of each mask, int64 `[rows, 2]`, by the source's split.
        ignore: The value of pixels without a class.
    """

    encoded: dict[str, EncodedImages] = field(default_factory=dict)
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    sizes: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    ignore: int | None = None

    def of(
        self, source: str, rows: NDArray[np.int64], samples: Samples, prepare: Preprocess
    ) -> RowLabels:
        """Return the masks of some rows, placed as their images.

        Raises:
            InputError: The data are no images, or a mask has another size than its image.
        """
        stored: NDArray[np.int64] | None = getattr(samples, "stored_sizes", None)
        if stored is None or not isinstance(prepare, PlacesLabels):
            raise InputError(Problem("data.masks", f"data of the kind {prepare.kind}", "images"))
        problems = []
        for place in np.flatnonzero((stored != self.sizes[source][rows]).any(axis=1)):
            row = rows[place]
            given = "a mask of {}x{}".format(*self.sizes[source][row])
            allowed = "{}x{}, the size of its image".format(*stored[place])
            where = f"data.masks.column (row {row} of {source})"
            problems.append(Problem(where, given, allowed))
        if problems:
            raise InputError(*problems[:MOST_PROBLEMS])
        return MaskRows(self, source, rows, prepare)

    def table(self) -> NDArray[np.int64]:
        """Return the label of each value: its class, or -100."""
        table = np.full(VALUES, UNLABELLED, dtype=np.int64)
        numbers = np.arange(len(self.classes))
        table[numbers] = numbers
        if self.ignore is not None:
            table[self.ignore] = UNLABELLED
        return table

    def check(self, rows: Mapping[str, tuple[str, NDArray[np.int64]]]) -> list[str]:
        """Check that training has pixels of every class that a split has."""
        pixels = {
            name: self.counts[source][one, : len(self.classes)].sum(axis=0)
            for name, (source, one) in rows.items()
        }
        if self.ignore is not None and self.ignore < len(self.classes):
            for one in pixels.values():
                one[self.ignore] = 0
        missing = {name: np.flatnonzero(one == 0) for name, one in pixels.items()}
        others = sum(one for name, one in pixels.items() if name != "train")
        unseen = [self.classes[number] for number in missing["train"] if others[number]]
        if unseen:
            fix = "Add images with these classes to train, or leave the classes out."
            given = f"no pixel of {', '.join(unseen)}, which another split has"
            allowed = "pixels of each class in train"
            raise InputError(Problem("data.masks (train)", given, allowed, fix))
        return [
            f"{name}: no pixel of {', '.join(self.classes[number] for number in one)}"
            for name, one in missing.items()
            if len(one)
        ]


class MaskRows:
    """The masks of a split: in memory as bytes, or decoded batch by batch if they are large.

    Args:
        labels: The masks of the source.
        source: The source's split.
        rows: The rows in it.
        prepare: The preprocessing, which places each mask as its image.
    """

    spatial: Sequence[Spatial] = (Spatial("labels", "mask"),)

    def __init__(
        self, labels: MaskLabels, source: str, rows: NDArray[np.int64], prepare: PlacesLabels
    ) -> None:
        import torch

        self._encoded = labels.encoded[source]
        self._rows, self._prepare = rows, prepare
        self._counts = labels.counts[source][rows].sum(axis=0)
        self._table = torch.from_numpy(labels.table())
        self.strata = torch.from_numpy(labels.rows[source][rows])
        self._kept: Tensor | None = None
        first = self._placed([int(one) for one in rows[:1]])
        if first.numel() * len(rows) <= KEPT_UNDER:
            self._kept = torch.empty((len(rows), *first.shape[1:]), dtype=torch.uint8)
            for place, one in enumerate(self._placed_each(rows.tolist())):
                self._kept[place] = torch.from_numpy(one.copy())

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def tensor(self) -> Tensor:
        """Raise: masks are read batch by batch."""
        raise LimbeckError("Masks have no tensor of all labels: read `labels` of the batches.")

    def batch(self, index: Tensor) -> Batch:
        """Return `labels`, int64 `[n, height, width]`, -100 for pixels without a class."""
        if self._kept is not None:
            values = self._kept.index_select(0, index)
        else:
            values = self._placed([int(row) for row in self._rows[index.numpy()]])
        return {"labels": self._table[values.long()]}

    def class_counts(self, classes: int) -> list[int]:
        """Count the pixels of each class, of the masks as stored."""
        labels = self._table.numpy()
        return [int(self._counts[labels == number].sum()) for number in range(classes)]

    def _placed(self, rows: list[int]) -> Tensor:
        import torch

        return torch.from_numpy(np.stack(list(self._placed_each(rows))))

    def _placed_each(self, rows: list[int]) -> Iterator[NDArray[np.uint8]]:
        for row, cell in zip(rows, self._encoded.cells(rows), strict=True):
            yield self._prepare.place_mask(_values(self._encoded, row, cell))


class Masks(LabelKind[MaskKeys]):
    """A class per pixel."""

    name: ClassVar[str] = "masks"
    keys: ClassVar[type[Settings]] = MaskKeys

    def _settings(self, spec: DataSpec) -> MaskSpec:
        return self.of(spec).masks or MaskSpec()

    def check(self, spec: DataSpec) -> None:
        """Check that each class is named once."""
        if repeated := duplicates(self._settings(spec).classes or ()):
            raise ValueError(f"masks.classes names {repeated} twice; allowed: each once")

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the column of the masks."""
        return {self._settings(spec).column: "data.masks.column"}

    def files(self, spec: DataSpec, loaded: Loadable) -> dict[str, str]:
        """Hash the mask files that rows reference by path."""
        return referenced_files(loaded, self._settings(spec).column)

    def read(self, spec: DataSpec, loaded: Loadable) -> Labels:
        """Open and check every mask of every split once.

        Raises:
            InputError: A mask cannot be opened, has more than one number per pixel, or has a number
                that is no class; the message lists the first ten problems of each split.
        """
        settings = self._settings(spec)
        problems: list[Problem] = []
        encoded = {name: _encoded(loaded, name, settings.column) for name in loaded.splits}
        scans = {name: _scan(one, settings, problems) for name, one in encoded.items()}
        if problems:
            raise InputError(*problems)
        counts = {name: one for name, (one, _) in scans.items()}
        sizes = {name: one for name, (_, one) in scans.items()}
        names = settings.classes or _numbers(counts, settings.ignore)
        found = {name: one[:, : len(names)] > 0 for name, one in counts.items()}
        if settings.ignore is not None:
            for one in found.values():
                one[:, settings.ignore : settings.ignore + 1] = False
        return MaskLabels(
            _rarest(found),
            names,
            _notes(counts, settings.ignore),
            "the rarest class in the mask",
            encoded=encoded,
            counts=counts,
            sizes=sizes,
            ignore=settings.ignore,
        )


kind = Masks()


def _encoded(loaded: Loadable, name: str, column: str) -> EncodedImages:
    files = loaded.files.get(name)
    dataset = loaded.splits[name]
    return EncodedImages(
        dataset,
        np.arange(len(dataset)),
        column,
        folder=files[0].parent if files else None,
        where=f"data.masks.column ({column!r} in {name})",
    )


def _scan(
    encoded: EncodedImages, settings: MaskSpec, problems: list[Problem]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels of each value in each mask, and measure its size."""
    counts = np.zeros((len(encoded), VALUES), dtype=np.int64)
    sizes = np.zeros((len(encoded), 2), dtype=np.int64)
    own: list[Problem] = []
    for row, stored in encoded.stored():
        with gathering(own):
            cell = encoded.open(row, stored)
            sizes[row] = size_of(cell)
            counts[row] = np.bincount(_values(encoded, row, cell).ravel(), minlength=VALUES)
            _check_values(encoded, row, counts[row], settings)
        if len(own) >= MOST_PROBLEMS:
            break
    problems += own
    return counts, sizes


def _values(
    encoded: EncodedImages, row: int, cell: Image.Image | NDArray[Any]
) -> NDArray[np.uint8]:
    """Return the numbers of a mask, `[height, width]`."""
    fix = "Store the class number of each pixel, not its colour."
    if isinstance(cell, np.ndarray):
        if len(cell) != 1 or cell.dtype != np.uint8:
            given = f"an array of {len(cell)} channels of {cell.dtype}"
            raise encoded.error(row, given, "whole numbers, one per pixel", fix)
        return cell[0]
    if cell.mode not in MODES:
        raise encoded.error(row, f"an image of mode {cell.mode}", "a grey or palette image", fix)
    return np.asarray(cell).astype(np.uint8)


def _check_values(
    encoded: EncodedImages, row: int, counts: NDArray[np.int64], settings: MaskSpec
) -> None:
    if settings.classes is None:
        return
    wrong = np.flatnonzero(counts)
    wrong = wrong[(wrong >= len(settings.classes)) & (wrong != settings.ignore)]
    if len(wrong):
        given = f"the value {wrong[0]} in {counts[wrong[0]]:,} pixels"
        allowed = f"0 to {len(settings.classes) - 1}, one per class"
        allowed += f", and {settings.ignore}, to be ignored" if settings.ignore is not None else ""
        fix = "List every class in masks.classes, or name the value in masks.ignore."
        raise encoded.error(row, given, allowed, fix)


def _numbers(counts: Mapping[str, NDArray[np.int64]], ignore: int | None) -> tuple[str, ...]:
    """Return the numbers up to the largest one of the training masks, as names."""
    used = np.flatnonzero(counts["train"].sum(axis=0))
    used = used[used != ignore]
    if not len(used):
        given = "no pixel with a class in train"
        raise InputError(Problem("data.masks", given, "masks with class numbers"))
    return tuple(str(number) for number in range(int(used[-1]) + 1))


def _rarest(found: Mapping[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.int64]]:
    """Return the class of each row that occurs in the fewest training masks; -100 for none."""
    frequency = found["train"].sum(axis=0)
    order = np.argsort(frequency, kind="stable")
    rows = {}
    for name, one in found.items():
        first = order[one[:, order].argmax(axis=1)]
        rows[name] = np.where(one.any(axis=1), first, UNLABELLED).astype(np.int64)
    return rows


def _notes(counts: Mapping[str, NDArray[np.int64]], ignore: int | None) -> tuple[str, ...]:
    if ignore is None:
        return ()
    total = sum(int(one.sum()) for one in counts.values())
    ignored = sum(int(one[:, ignore].sum()) for one in counts.values())
    note = f"{ignored / max(total, 1):.1%} of the pixels of all masks are ignored (value {ignore})"
    return (note,) if ignored else ()
