"""One class per row: labels by name or number, with rows without a label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from limbeck.data.label import UNLABELLED, LabelKind, Labels, Loadable
from limbeck.data.labels._class_names import class_rows
from limbeck.data.settings import Settings
from limbeck.data.stratify import check_classes
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray

    from limbeck.data.preprocess import Preprocess
    from limbeck.data.rows import RowLabels, Samples
    from limbeck.data.spec import DataSpec


class ClassKeys(Settings):
    """The keys of labels that are classes.

    Attributes:
        classes: The class names, in the order of the labels.
        unlabelled: Whether training rows may have no label: they train under the teacher alone.
    """

    classes: tuple[str, ...] | None = None
    unlabelled: bool = False


@dataclass(frozen=True)
class ClassLabels(Labels):
    """The classes of the source's rows; they are the strata."""

    def of(
        self, source: str, rows: NDArray[np.int64], samples: Samples, prepare: Preprocess
    ) -> RowLabels:
        """Return the classes of some rows."""
        import torch

        from limbeck.data.rows import DenseLabels

        labels = torch.from_numpy(self.rows[source][rows])
        return DenseLabels(labels, classes=len(self.classes))

    def check(self, rows: Mapping[str, tuple[str, NDArray[np.int64]]]) -> list[str]:
        """Check that training has rows of every class."""
        found = {name: self.rows[source][one] for name, (source, one) in rows.items()}
        known = {name: one[one != UNLABELLED] for name, one in found.items()}
        return check_classes(known, self.classes)


class Classes(LabelKind[ClassKeys]):
    """One class per row."""

    name: ClassVar[str] = "classes"
    keys: ClassVar[type[Settings]] = ClassKeys
    entries: ClassVar[frozenset[str]] = frozenset({"labels", "labelled"})
    is_default: ClassVar[bool] = True

    def check(self, spec: DataSpec) -> None:
        """Check that each class is named once."""
        classes = self.of(spec).classes
        if classes and len(set(classes)) != len(classes):
            raise ValueError("classes names the same class twice")

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the label column."""
        return {spec.columns.label: "data.columns"}

    def read(self, spec: DataSpec, loaded: Loadable) -> Labels:
        """Read the class of every row of all splits."""
        own, column = self.of(spec), spec.columns.label
        if own.unlabelled:
            return _partly_labelled(loaded.splits, column, own.classes)
        return read_labels(loaded.splits, column, own.classes)


kind = Classes()


def read_labels(
    splits: dict[str, datasets.Dataset], column: str, classes: tuple[str, ...] | None
) -> ClassLabels:
    """Read the labels of all splits, and map each to a class by its name or number.

    Raises:
        InputError: Labels are missing, lists, out of range or with gaps; a name is not among the
            classes; or a split has a class that training lacks. The message lists every problem of
            every split.
    """
    rows, names, notes = class_rows(splits, column, classes)
    return ClassLabels(rows, names, notes)


def _partly_labelled(
    splits: dict[str, datasets.Dataset], column: str, classes: tuple[str, ...] | None
) -> ClassLabels:
    """Read labels of which the training split lacks some."""
    train = splits["train"]
    cells = train.select_columns([column]).with_format("arrow")[:].column(column)
    known = np.flatnonzero(~cells.is_null().to_numpy())
    if not len(known):
        where = f"data.columns.label ({column!r} in train)"
        raise InputError(Problem(where, f"no label in {len(train)} rows", "a label in some rows"))
    rows, names, notes = class_rows({**splits, "train": train.select(known)}, column, classes)
    numbers = np.full(len(train), UNLABELLED, dtype=np.int64)
    numbers[known] = rows["train"]
    return ClassLabels({**rows, "train": numbers}, names, notes)
