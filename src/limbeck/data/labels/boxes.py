"""Boxes of objects with a class each, which move with their image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from limbeck.data.label import UNLABELLED, LabelKind, Labels, Loadable, PlacesLabels, Spatial
from limbeck.data.labels._class_names import class_rows
from limbeck.data.settings import Settings, duplicates
from limbeck.errors import InputError, LimbeckError, Problem, gathering

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.preprocess import Preprocess
    from limbeck.data.rows import Batch, RowLabels, Samples
    from limbeck.data.spec import DataSpec

MOST_PROBLEMS = 10
KEY = "data.boxes"


class BoxSpec(Settings):
    """Settings of the boxes of object detection: two columns with a list for each image.

    Attributes:
        column: The column of the boxes: for each image a list of four numbers per object, in pixels
            of the image as stored; an empty list for an image without objects.
        labels: The column of their classes: a list of names or numbers per image.
        form: The four numbers: the corners (x1, y1, x2, y2), or a corner and the size (x, y, width,
            height), as in COCO.
        classes: The class names, in the order of the numbers; those of the data if not given.
    """

    column: str = "boxes"
    labels: str = "labels"
    form: Literal["xyxy", "xywh"] = "xyxy"
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None


class BoxKeys(Settings):
    """The keys of labels that are boxes.

    Attributes:
        boxes: The boxes of object detection; the label column is then not used.
    """

    boxes: BoxSpec | None = None


@dataclass(frozen=True)
class BoxLabels(Labels):
    """The boxes of the source's images; the stratum of an image is its rarest class.

    Attributes:
        boxes: The boxes of each image, (x1, y1, x2, y2) in pixels as stored, by the source's split.
        numbers: The class of each box, int64, by the source's split.
    """

    boxes: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    numbers: dict[str, list[NDArray[np.int64]]] = field(default_factory=dict)

    def of(
        self, source: str, rows: NDArray[np.int64], samples: Samples, prepare: Preprocess
    ) -> RowLabels:
        """Return the boxes of some images, clipped to them, and moved with their preprocessing.

        Raises:
            InputError: The data are no images, or a box is outside of its image.
        """
        import torch

        stored: NDArray[np.int64] | None = getattr(samples, "stored_sizes", None)
        if stored is None or not isinstance(prepare, PlacesLabels):
            raise InputError(Problem(KEY, f"data of the kind {prepare.kind}", "images"))
        placed, classes, problems = [], [], []
        for row, size in zip(rows.tolist(), stored.tolist(), strict=True):
            height, width = size
            clipped = self.boxes[source][row].clip(0, [width, height, width, height])
            outside = ~_has_area(clipped)
            if outside.any():
                given = f"a box {self.boxes[source][row][outside][0].tolist()}"
                allowed = f"boxes in its image of {height}x{width}"
                fix = "Boxes are in pixels of the image as stored."
                where = f"{KEY}.column (row {row} of {source})"
                problems.append(Problem(where, given, allowed, fix))
            moved = prepare.place_boxes(clipped, (height, width))
            kept = _has_area(moved)  # others are cropped away
            placed.append(torch.from_numpy(moved[kept]))
            classes.append(torch.from_numpy(self.numbers[source][row][kept]))
        if problems:
            raise InputError(*problems[:MOST_PROBLEMS])
        return BoxRows(placed, classes, torch.from_numpy(self.rows[source][rows]))

    def check(self, rows: Mapping[str, tuple[str, NDArray[np.int64]]]) -> list[str]:
        """Check that training has boxes of every class that a split has."""
        counts = {
            name: np.bincount(
                np.concatenate([self.numbers[source][row] for row in own]),
                minlength=len(self.classes),
            )
            for name, (source, own) in rows.items()
        }
        missing = {name: np.flatnonzero(one == 0) for name, one in counts.items()}
        total = np.sum(list(counts.values()), axis=0)
        unseen = [self.classes[number] for number in missing["train"] if total[number]]
        if unseen:
            fix = "Add images with these classes to train, or leave the classes out."
            given = f"no box of {', '.join(unseen)}, which another split has"
            raise InputError(Problem(f"{KEY} (train)", given, "boxes of each class in train", fix))
        shown = [f"{name}: {int(one.sum()):,} boxes" for name, one in counts.items()]
        return [
            ", ".join(shown),
            *(
                f"{name}: no box of {', '.join(self.classes[number] for number in one)}"
                for name, one in missing.items()
                if len(one)
            ),
        ]


class BoxRows:
    """The boxes of a split, padded to the most boxes of an image in each batch.

    Args:
        boxes: The boxes of each image in pixels of the model's input, float32 `[boxes, 4]`.
        classes: Their classes, int64 `[boxes]`.
        strata: The stratum of each image, int64 `[rows]`.
    """

    spatial: Sequence[Spatial] = (Spatial("boxes", "boxes", classes="labels"),)

    def __init__(self, boxes: list[Tensor], classes: list[Tensor], strata: Tensor) -> None:
        self._boxes, self._classes, self.strata = boxes, classes, strata

    def __len__(self) -> int:
        return len(self._boxes)

    @property
    def tensor(self) -> Tensor:
        """Raise: images have different numbers of boxes."""
        raise LimbeckError("Boxes have no tensor of all labels: read `boxes` of the batches.")

    def batch(self, index: Tensor) -> Batch:
        """Return `boxes`, float32 `[n, most, 4]`, and `labels`, int64 `[n, most]`, padded by -100.

        Example:
            >>> import torch
            >>> boxes = [torch.ones(1, 4), torch.ones(2, 4)]
            >>> classes = [torch.tensor([0]), torch.tensor([1, 2])]
            >>> BoxRows(boxes, classes, torch.zeros(2)).batch(torch.arange(2))["labels"]
            tensor([[   0, -100],
                    [   1,    2]])
        """
        from torch.nn.utils.rnn import pad_sequence

        rows = index.tolist()
        boxes = pad_sequence([self._boxes[row] for row in rows], batch_first=True)
        classes = pad_sequence(
            [self._classes[row] for row in rows], batch_first=True, padding_value=UNLABELLED
        )
        return {"labels": classes, "boxes": boxes}

    def class_counts(self, classes: int) -> list[int]:
        """Count the boxes of each class."""
        import torch

        counts: list[int] = torch.cat(self._classes).bincount(minlength=classes).tolist()
        return counts


class Boxes(LabelKind[BoxKeys]):
    """Boxes of objects, with a class each."""

    name: ClassVar[str] = "boxes"
    keys: ClassVar[type[Settings]] = BoxKeys
    entries: ClassVar[frozenset[str]] = frozenset({"labels", "boxes"})

    def _settings(self, spec: DataSpec) -> BoxSpec:
        return self.of(spec).boxes or BoxSpec()

    def check(self, spec: DataSpec) -> None:
        """Check that each class is named once."""
        if repeated := duplicates(self._settings(spec).classes or ()):
            raise ValueError(f"boxes.classes names {repeated} twice; allowed: each once")

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the columns of the boxes and of their classes."""
        own = self._settings(spec)
        return {own.column: f"{KEY}.column", own.labels: f"{KEY}.labels"}

    def read(self, spec: DataSpec, loaded: Loadable) -> Labels:
        """Read the boxes of every image of all splits; boxes without area are dropped.

        Raises:
            InputError: A box is no four finite numbers or has its corners exchanged, an image has
                another number of labels than of boxes, or a label is no class; the message lists
                the first ten problems of each split.
        """
        own = self._settings(spec)
        problems: list[Problem] = []
        boxes = {
            name: _read_boxes(dataset, name, own, problems)
            for name, dataset in loaded.splits.items()
        }
        labels = {
            name: _read_labels(dataset, name, own, [len(one) for one in boxes[name]], problems)
            for name, dataset in loaded.splits.items()
        }
        if problems:
            raise InputError(*problems)
        flat = {name: one for name, one in labels.items() if len(one)}
        if "train" not in flat:
            raise InputError(Problem(f"{KEY} (train)", "no box", "images with objects"))
        numbers, classes, notes = class_rows(flat, own.labels, own.classes, key=f"{KEY}.labels")
        each = {
            name: _per_image(numbers.get(name, np.zeros(0, np.int64)), one)
            for name, one in boxes.items()
        }
        area = {name: [_has_area(one) for one in own] for name, own in boxes.items()}
        dropped = sum(int((~one).sum()) for split in area.values() for one in split)
        if dropped:
            notes = (*notes, f"{dropped:,} boxes without area are left out")
        return BoxLabels(
            _rarest(each, len(classes)),
            classes,
            notes,
            "the rarest class in the image",
            boxes={name: _kept(one, area[name]) for name, one in boxes.items()},
            numbers={name: _kept(one, area[name]) for name, one in each.items()},
        )


kind = Boxes()


def _read_boxes(
    dataset: datasets.Dataset, split: str, settings: BoxSpec, problems: list[Problem]
) -> list[NDArray[np.float32]]:
    """Read the boxes of each image, as corners."""
    where, found = f"{KEY}.column ({settings.column!r} in {split})", []
    own: list[Problem] = []
    for row, cell in enumerate(dataset.select_columns([settings.column]).with_format(None)):
        boxes = np.zeros((0, 4), np.float32)
        with gathering(own):
            boxes = _corners(cell[settings.column], settings.form, f"{where}, row {row}")
        found.append(boxes)
    problems += own[:MOST_PROBLEMS]
    return found


def _corners(cell: Any, form: str, where: str) -> NDArray[np.float32]:
    allowed = f"a list of four finite numbers per object, {form}"
    try:
        boxes = np.asarray(cell, np.float32).reshape(-1, 4) if cell is not None else None
    except (ValueError, TypeError) as error:
        raise InputError(Problem(where, str(error)[:100], allowed)) from error
    if boxes is None or not np.isfinite(boxes).all():
        given = "no list" if boxes is None else "NaN or infinity"
        fix = "An image without objects has an empty list." if boxes is None else ""
        raise InputError(Problem(where, given, allowed, fix))
    if form == "xywh":
        boxes[:, 2:] += boxes[:, :2]
    wrong = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if wrong.any():
        given = f"the corners {boxes[wrong][0].tolist()}"
        fix = "Set boxes.form: xywh, if the last two numbers are width and height."
        raise InputError(Problem(where, given, "x1 <= x2 and y1 <= y2", fix))
    return boxes


def _read_labels(
    dataset: datasets.Dataset,
    split: str,
    settings: BoxSpec,
    counts: list[int],
    problems: list[Problem],
) -> datasets.Dataset:
    """Return the labels of all boxes of a split, a row each."""
    import datasets

    where, column = f"{KEY}.labels ({settings.labels!r} in {split})", settings.labels
    cells = dataset.select_columns([column]).with_format(None)[:][column]
    cells = [[] if cell is None else cell for cell in cells]
    lists = [cell if isinstance(cell, list) else [cell] for cell in cells]
    wrong = [row for row, cell in enumerate(lists) if len(cell) != counts[row]]
    for row in wrong[:MOST_PROBLEMS]:
        given, allowed = f"{len(lists[row])} labels", f"{counts[row]}, one for each box"
        problems.append(Problem(f"{where}, row {row}", given, allowed))
    feature = dataset.features[column]
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    flat = {column: [label for cell in lists for label in cell]}
    return datasets.Dataset.from_dict(flat, features=datasets.Features({column: inner}))


def _per_image(
    numbers: NDArray[np.int64], boxes: list[NDArray[np.float32]]
) -> list[NDArray[np.int64]]:
    return np.split(numbers, np.cumsum([len(one) for one in boxes])[:-1])


def _has_area(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return whether each box has a width and a height above 0, `[boxes]`."""
    x1, y1, x2, y2 = boxes.T
    return np.asarray((x2 > x1) & (y2 > y1))


def _kept(values: list[NDArray[Any]], masks: list[NDArray[np.bool_]]) -> list[NDArray[Any]]:
    return [one[mask] for one, mask in zip(values, masks, strict=True)]


def _rarest(
    numbers: Mapping[str, list[NDArray[np.int64]]], classes: int
) -> dict[str, NDArray[np.int64]]:
    """Return the class of each image that occurs in the fewest training images.

    Images without objects have a stratum of their own, the number of classes.
    """
    found = {
        name: np.stack([np.bincount(own, minlength=classes) > 0 for own in one])
        for name, one in numbers.items()
    }
    order = np.argsort(found["train"].sum(axis=0), kind="stable")
    return {
        name: np.where(one.any(axis=1), order[one[:, order].argmax(axis=1)], classes)
        for name, one in found.items()
    }
