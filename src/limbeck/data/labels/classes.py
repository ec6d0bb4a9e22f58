"""One class per row: labels by name or number, with rows without a label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from limbeck.data.label import UNLABELLED, LabelKind, Labels, Loadable
from limbeck.data.labels._class_names import class_rows
from limbeck.data.settings import Settings
from limbeck.data.stratify import check_classes, hide_labels
from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray

    from limbeck.data.preprocess import Preprocess
    from limbeck.data.rows import RowLabels, Samples
    from limbeck.data.spec import DataSpec


SHOWN = 10
Weight = Annotated[float, Field(ge=0, le=1e12)]


class ClassKeys(Settings):
    """The keys of labels that are classes.

    Attributes:
        classes: The class names, in the order of the labels.
        unlabelled: Whether training rows may have no label: they train under the teacher alone.
        labelled: The number of training rows that keep their label, stratified by class: the others
            train under the teacher alone, as in semi-supervised learning with few labels.
        class_weights: Weights of the training rows by class: `balanced`, rows / (classes · rows of
            the class), as in scikit-learn; or `{name: weight}`, 1 for a class that is not named.
    """

    classes: tuple[str, ...] | None = None
    unlabelled: bool = False
    labelled: Annotated[int, Field(ge=1, le=10**12)] | None = None
    class_weights: Literal["balanced"] | dict[str, Weight] | None = None


@dataclass(frozen=True)
class ClassLabels(Labels):
    """The classes of the source's rows; they are the strata.

    Attributes:
        class_weights: The weights of classes, as in the recipe.
    """

    class_weights: Literal["balanced"] | Mapping[str, float] | None = None

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
        notes = check_classes(known, self.classes)
        if self.class_weights is not None:
            weights = self._of_classes(known["train"])
            shown = [f"{name} {one:.3g}" for name, one in zip(self.classes, weights, strict=True)]
            more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
            notes.append(f"training rows weighted by class: {', '.join(shown[:SHOWN])}{more}")
        return notes

    def weights(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Return the weight of each training row by its class; 1 without a label.

        Raises:
            InputError: A class is unknown, or the weights of all rows are 0; all problems at once.
        """
        if self.class_weights is None:
            return None
        found = self.rows["train"][rows]
        labelled = found != UNLABELLED
        weights = np.ones(len(found), dtype=np.float32)
        weights[labelled] = self._of_classes(found[labelled])[found[labelled]]
        return weights

    def _of_classes(self, known: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the weight of each class, given the classes of the training rows."""
        counts = np.bincount(known, minlength=len(self.classes))
        if self.class_weights == "balanced":
            # A class without training rows is refused, unless no split has any.
            return len(known) / (len(self.classes) * np.maximum(counts, 1))
        stated = self.class_weights or {}
        found = self._stated_weights(stated)
        if not (found * counts).any():
            allowed = "a weight above 0 for a class with training rows"
            raise InputError(Problem("data.class_weights", dict(stated), allowed))
        return found

    def _stated_weights(self, stated: Mapping[str, float]) -> NDArray[np.float64]:
        unknown = [name for name in stated if name not in self.classes]
        if unknown:
            listed = ", ".join(self.classes)
            raise InputError(
                *(
                    Problem("data.class_weights", name, listed, did_you_mean(name, self.classes))
                    for name in unknown
                )
            )
        return np.array([stated.get(name, 1.0) for name in self.classes], dtype=np.float64)


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
        read = _partly_labelled if own.unlabelled else read_labels
        found = read(loaded.splits, column, own.classes)
        stated = own.classes is not None
        return replace(found, class_weights=own.class_weights, order_stated=stated)

    def limit(
        self, spec: DataSpec, labels: Labels, rows: NDArray[np.int64]
    ) -> tuple[Labels, tuple[str, ...]]:
        """Return labels without those of all training rows but some, drawn with `split_seed`."""
        count = self.of(spec).labelled
        if count is None:
            return labels, ()
        hidden, note = hide_labels(labels, rows, count, seed=spec.split_seed, key="data.labelled")
        return replace(labels, rows={**labels.rows, "train": hidden}), (note,)


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
