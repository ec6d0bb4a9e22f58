"""The contract of a kind of label: one file each in `limbeck/data/labels`.

A kind owns its keys in the `data` section, reads and checks the labels of all splits, and adds them
to batches. `classes` has one class per row, `values` numeric targets, `masks` a class per pixel,
`boxes` objects with a class each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    ClassVar,
    Generic,
    Literal,
    Protocol,
    TypeVar,
    cast,
    runtime_checkable,
)

from limbeck.core.registry import Registry
from limbeck.data.settings import Settings

if TYPE_CHECKING:
    import datasets
    import numpy as np
    from numpy.typing import NDArray

    from limbeck.data.preprocess import Preprocess, Target
    from limbeck.data.rows import RowLabels, Samples
    from limbeck.data.spec import DataSpec

LABELS = Registry("limbeck.data.labels", kind="data.labels", attribute="kind")
UNLABELLED = -100
"""The label of a row or a pixel without one, as in torch and transformers."""

KeysT = TypeVar("KeysT", bound=Settings)


@dataclass(frozen=True)
class Spatial:
    """A batch entry with positions in the image, which moves with it in augmentation.

    Attributes:
        name: The entry: a mask int64 `[n, height, width]`, or boxes float32 `[n, most, 4]` as x
            and y of two corners in pixels of the model's input.
        form: Whether it is a mask or boxes.
        classes: The entry with the class of each box, int64 `[n, most]`: -100 for padding, and for
            a box that augmentation has moved out of the image.
    """

    name: str
    form: Literal["mask", "boxes"]
    classes: str = ""


@runtime_checkable
class PlacesLabels(Protocol):
    """A preprocessing that places masks and boxes as it places their image."""

    def place_mask(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize a mask `[height, width]` as its image, by the nearest pixel."""
        ...

    def place_boxes(
        self, boxes: NDArray[np.float32], stored_size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Scale boxes `[n, 4]`, given in pixels of an image of height and width `stored_size`."""
        ...

    def restore_boxes(
        self, boxes: NDArray[np.float32], stored_size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Convert boxes in pixels of the model's input to those of the image as stored."""
        ...


class Loadable(Protocol):
    """The part of a loaded source that labels are read from (`limbeck.data.loaded.Loaded`)."""

    @property
    def splits(self) -> dict[str, datasets.Dataset]:
        """Return the source's splits."""
        ...

    @property
    def files(self) -> dict[str, list[Path]]:
        """Return the files read, by split."""
        ...


@dataclass(frozen=True)
class Labels(ABC):
    """The labels of all splits of a source, read and checked.

    Attributes:
        rows: The stratum of each sample, by the source's split, int64 `[samples]`: its class, or
            a bin of its label; -100 without a label. Splits are stratified by it, and rows of equal
            content are compared by it.
        classes: The class names; none if labels are no classes.
        notes: Notes for the report.
        by: What the strata are, for notes.
        order_stated: Whether the recipe states the classes, and with them their order.
    """

    rows: dict[str, NDArray[np.int64]]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    by: str = "class"
    order_stated: bool = False

    @abstractmethod
    def of(
        self, source: str, rows: NDArray[np.int64], samples: Samples, prepare: Preprocess
    ) -> RowLabels:
        """Return the labels of some samples of a source's split, for batches.

        Args:
            source: The source's split.
            rows: The indices of the samples in it.
            samples: The inputs of these samples.
            prepare: Their preprocessing, which labels with positions follow.

        Raises:
            InputError: A label does not fit its sample; the message lists every problem.
        """

    def check(self, rows: Mapping[str, tuple[str, NDArray[np.int64]]]) -> list[str]:
        """Check the labels of train, validation and test; return notes for the report.

        Args:
            rows: The source's split and the rows in it, by split.

        Raises:
            InputError: Training has no label of a class.
        """
        return []

    def weights(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Return a weight for each of the training split's rows by its label; None for none.

        Args:
            rows: The training rows in the source's split `train`.

        Raises:
            InputError: The weights of all rows are 0.
        """
        return None

    def targets(self, train: RowLabels) -> tuple[Target, ...]:
        """Return the numeric targets, with their scale over the training rows."""
        return ()


class LabelKind(ABC, Generic[KeysT]):
    """A kind of label; the `kind` of its file in `limbeck/data/labels`.

    Attributes:
        name: The name of its file.
        keys: A model whose fields are keys of the `data` section. All have defaults.
        entries: The names of its batch entries.
        is_default: Whether it applies if no key of another kind is given.
    """

    name: ClassVar[str]
    keys: ClassVar[type[Settings]]
    entries: ClassVar[frozenset[str]] = frozenset({"labels"})
    is_default: ClassVar[bool] = False

    def of(self, spec: DataSpec) -> KeysT:
        """Return the data section, typed with the keys of this kind."""
        return cast("KeysT", spec)

    def given(self, spec: DataSpec) -> Sequence[str]:
        """Return the keys of this kind that a recipe gives."""
        return [name for name in self.keys.model_fields if getattr(spec, name)]

    def check(self, spec: DataSpec) -> None:
        """Check the keys in the whole section; raise `ValueError` or `RefusedError`."""

    @abstractmethod
    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the columns that are read, each with its key in the recipe."""

    @abstractmethod
    def read(self, spec: DataSpec, loaded: Loadable) -> Labels:
        """Read the labels of all splits of a source.

        Raises:
            InputError: Labels are missing or invalid; the message lists every problem.
        """

    def limit(
        self, spec: DataSpec, labels: Labels, rows: NDArray[np.int64]
    ) -> tuple[Labels, tuple[str, ...]]:
        """Return the labels that training may read, of the training rows, with notes.

        Raises:
            InputError: The number of labels in the recipe is too large or too small.
        """
        return labels, ()

    def files(self, spec: DataSpec, loaded: Loadable) -> dict[str, str]:
        """Return hashes of the files that labels reference, by their names in the rows."""
        return {}


def kind_of(spec: DataSpec) -> LabelKind[Settings]:
    """Return the kind of label of a data section: the one whose keys it gives."""
    kinds: list[LabelKind[Settings]] = [LABELS.load(name) for name in LABELS.names()]
    given = [kind for kind in kinds if kind.given(spec)]
    return given[0] if given else next(kind for kind in kinds if kind.is_default)
