"""The inputs and the labels of a split's rows, and their augmentation: what a `Split` joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from limbeck.data.label import UNLABELLED

if TYPE_CHECKING:
    from limbeck.data.label import Spatial

Batch = dict[str, Tensor]


class Samples(Protocol):
    """The rows of a split, as tensors.

    Samples of unequal length may have an attribute `lengths`, int64 `[rows]`; images an attribute
    `stored_sizes`, the height and width of each as stored, int64 `[rows, 2]`.
    """

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def batch(self, index: Tensor) -> Batch:
        """Return the inputs of some rows, by name."""
        ...

    def raw(self, row: int) -> dict[str, Any]:
        """Return one row for display: a PIL image as `image`, or a text as `text`."""
        ...


class RowLabels(Protocol):
    """The labels of a split's rows."""

    @property
    def tensor(self) -> Tensor:
        """Return the labels of all rows, `[rows, ...]`.

        Raises:
            LimbeckError: They are no tensor of moderate size, as masks and boxes.
        """
        ...

    @property
    def strata(self) -> Tensor:
        """Return the stratum of each row, int64 `[rows]`: its class, or a bin; -100 without."""
        ...

    @property
    def spatial(self) -> Sequence[Spatial]:
        """Return the batch entries that move with the image."""
        ...

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def batch(self, index: Tensor) -> Batch:
        """Return the batch entries of some rows: `labels`, and others of its kind."""
        ...

    def class_counts(self, classes: int) -> list[int]:
        """Count the labelled elements of each class: rows, pixels or boxes."""
        ...


class DenseLabels:
    """Labels that are one tensor: classes, or numeric targets.

    Args:
        tensor: The classes, int64 `[rows]`, -100 without a label; or targets, float32
            `[rows, ...]`.
        strata: The stratum of each row, int64 `[rows]`; by default the classes.
    """

    spatial: Sequence[Spatial] = ()

    def __init__(self, tensor: Tensor, strata: Tensor | None = None) -> None:
        self.tensor = tensor
        self.strata = tensor if strata is None else strata
        labelled = tensor != UNLABELLED
        self._labelled = None if tensor.is_floating_point() or bool(labelled.all()) else labelled

    def __len__(self) -> int:
        return len(self.tensor)

    def batch(self, index: Tensor) -> Batch:
        """Return `labels`; and `labelled`, bool `[n]`, if some rows have no label."""
        batch = {"labels": self.tensor.index_select(0, index)}
        if self._labelled is not None:
            batch["labelled"] = self._labelled.index_select(0, index)
        return batch

    def class_counts(self, classes: int) -> list[int]:
        """Count the rows of each class."""
        return class_counts(self.tensor, classes)


def class_counts(labels: Tensor, classes: int) -> list[int]:
    """Count the labels of each class; negative ones are left out.

    Example:
        >>> import torch
        >>> class_counts(torch.tensor([0, 2, 2, -100]), 3)
        [1, 0, 2]
    """
    counts: list[int] = labels[labels >= 0].bincount(minlength=classes).tolist()
    return counts


class Augmentation(Protocol):
    """Augmentation of training batches, with random numbers that do not depend on the batch."""

    @property
    def views(self) -> int | None:
        """Return the number of variants per row; None if every epoch has new ones."""
        ...

    def __call__(
        self, batch: Batch, index: Tensor, *, seed: int, view: int, spatial: Sequence[Spatial]
    ) -> Batch:
        """Augment a batch, drawn by (seed, index, view); the given tensors stay unchanged.

        Args:
            batch: The inputs and labels.
            index: The rows in the split, `[n]`.
            seed: The run's seed.
            view: The variant.
            spatial: The entries that move with the image.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """Return the settings as plain data, by which cached outputs are keyed."""
        ...
