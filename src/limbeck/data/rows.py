"""The inputs and the labels of a split's rows, and their augmentation: what a `Split` joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

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
        classes: The number of classes, for labels that are classes.
    """

    spatial: Sequence[Spatial] = ()

    def __init__(
        self, tensor: Tensor, strata: Tensor | None = None, *, classes: int | None = None
    ) -> None:
        self.tensor = tensor
        self._classes = classes
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

    @property
    def mixable(self) -> bool:
        """Return whether labels are classes, or all 0 or 1."""
        if self.tensor.is_floating_point():
            return bool(((self.tensor == 0) | (self.tensor == 1)).all())
        return self._classes is not None

    def mixed(self, index: Tensor, partner: Tensor, share: Tensor) -> Batch:
        """Return `labels`, probabilities `[n, classes]`, and `labelled` if some rows have none."""
        own, other = self.batch(index), self.batch(partner)
        batch = {"labels": mix(self._soft(own), self._soft(other), share)}
        if "labelled" in own:
            batch["labelled"] = own["labelled"] & (other["labelled"] | (share == 1))
        return batch

    def _soft(self, batch: Batch) -> Tensor:
        """Return labels as probabilities, one-hot if they are classes."""
        labels = batch["labels"]
        if labels.is_floating_point() or self._classes is None:
            return labels
        return one_hot(labels.clamp(min=0), self._classes).to(torch.float32)


def mix(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Compute the weighted mean of two tensors `[n, ...]`, with the share `[n]` of the first.

    Example:
        >>> mix(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0.25]))
        tensor([[0.2500, 0.2500]])
    """
    factor = share.view(-1, *(1,) * (own.ndim - 1))
    return own * factor + other * (1 - factor)


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


class Mix(Protocol):
    """The draw of a batch whose samples are mixed with others of the split."""

    @property
    def partner(self) -> Tensor:
        """Return the row that each sample is mixed with, int64 `[n]`."""
        ...

    @property
    def share(self) -> Tensor:
        """Return the share of the own label, float32 `[n]`; 1 for a sample that is not mixed."""
        ...

    def inputs(self, own: Batch, partner: Batch) -> Batch:
        """Return the mixed inputs of augmented samples and of their partners."""
        ...


class Mixing(Protocol):
    """Mixing of samples, drawn by (seed, index, view) and not by batch."""

    def draw(self, index: Tensor, *, rows: int, seed: int, view: int) -> Mix:
        """Draw how rows `index` of a split of `rows` rows are mixed."""
        ...


@runtime_checkable
class MixesSamples(Protocol):
    """An augmentation that also mixes samples (mixup, CutMix)."""

    @property
    def mixing(self) -> Mixing | None:
        """Return the mixing; None for none."""
        ...


@runtime_checkable
class MixableLabels(Protocol):
    """Labels of which a mixture is defined."""

    @property
    def mixable(self) -> bool:
        """Return whether it is defined for these labels."""
        ...

    def mixed(self, index: Tensor, partner: Tensor, share: Tensor) -> Batch:
        """Return the entries of rows `index [n]` mixed with rows `partner`: soft labels."""
        ...
