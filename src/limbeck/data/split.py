"""Data splits: batches by row index, labels, and rows for display."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.label import UNLABELLED
from limbeck.data.rows import (
    Augmentation,
    Batch,
    MixableLabels,
    MixesSamples,
    Mixing,
    RowLabels,
    Samples,
    mix,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.data.label import Labels
    from limbeck.data.preprocess import Preprocess

    Groups = dict[str, NDArray[np.str_]]


class Split:
    """Rows accessed by index; order and sharding belong to the training loop.

    Args:
        samples: The rows' inputs.
        labels: The rows' labels.
        augmentation: The augmentation of batches; None for none.
        groups: The sensitive features of each row, by column, `[rows]` of names.
        weights: The weight of each row, float32 `[rows]`; None for equal weights.

    Attributes:
        row_labels: The rows' labels.
        seed: The seed of the augmentation; see `set_seed`.
        epoch: The epoch of the batches; see `set_epoch`.
    """

    def __init__(
        self,
        samples: Samples,
        labels: RowLabels,
        *,
        augmentation: Augmentation | None = None,
        groups: Mapping[str, NDArray[np.str_]] | None = None,
        weights: Tensor | None = None,
    ) -> None:
        self._samples = samples
        self.row_labels = labels
        self.weights = weights
        self.augmentation = augmentation
        self.groups = dict(groups or {})
        self.seed = 0
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.row_labels)

    @property
    def labels(self) -> Tensor:
        """Return the labels of all rows: classes int64 `[rows]`, or targets `[rows, targets]`.

        Raises:
            LimbeckError: They are no such tensor: masks and boxes are read batch by batch.
        """
        return self.row_labels.tensor

    @property
    def strata(self) -> Tensor:
        """Return the stratum of each row, int64 `[rows]`: its class, or a bin; -100 without."""
        return self.row_labels.strata

    def class_counts(self, classes: int) -> list[int]:
        """Count the labelled elements of each class: rows, pixels or boxes."""
        return self.row_labels.class_counts(classes)

    @property
    def views(self) -> int | None:
        """Return the number of variants per row: 1 without augmentation, None if unlimited."""
        return self.augmentation.views if self.augmentation else 1

    @property
    def lengths(self) -> Tensor | None:
        """Return the length of each row, int64 `[rows]`; None if all are of one size."""
        return getattr(self._samples, "lengths", None)

    @property
    def decodes(self) -> bool:
        """Return whether rows are decoded for each batch, which worker processes may share."""
        return bool(getattr(self._samples, "decodes", False))

    @property
    def view(self) -> int:
        """Return the variant of this epoch's batches: the epoch modulo the views."""
        return self.epoch if self.views is None else self.epoch % self.views

    @property
    def mixing(self) -> Mixing | None:
        """Return how samples are mixed (mixup, CutMix); None if they are not."""
        augmentation = self.augmentation
        return augmentation.mixing if isinstance(augmentation, MixesSamples) else None

    def set_seed(self, seed: int) -> None:
        """Set the seed of the augmentation: the run's seed.

        A stated number of views is the same for every seed, so that one record of a teacher's
        outputs serves them all.
        """
        self.seed = seed if self.views is None else 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next batches."""
        self.epoch = epoch

    def __getitem__(self, row: int) -> Batch:
        """Return one row, as a batch of one."""
        return self.__getitems__([row])

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Batch:
        """Return some rows as a batch; called by a DataLoader with `collate_fn` the identity.

        Returns:
            `image` float32 `[n, c, h, w]`, or `input_ids` and `attention_mask` int64
            `[n, longest]`, or `features` float32 `[n, width]`; and `labels`, `index`, `view`,
            int64 `[n]`. Numeric targets are `labels` float32 `[n, targets]`, masks int64
            `[n, h, w]`, boxes `labels` int64 `[n, most]` and `boxes` float32 `[n, most, 4]`. With
            weights, `weight` float32 `[n]`; with rows without a label, `labelled` bool `[n]`.
        """
        index = torch.as_tensor(indices, dtype=torch.int64)
        batch = self._augmented(index)
        if self.mixing is not None:
            batch = self._mixed(batch, index, self.mixing)
        batch["index"] = index
        batch["view"] = torch.full_like(index, self.view)
        return batch

    def _augmented(self, index: Tensor) -> Batch:
        """Return some rows, each augmented by its own draw."""
        batch = {**self._samples.batch(index), **self.row_labels.batch(index)}
        if self.augmentation is not None:
            batch = self.augmentation(
                batch, index, seed=self.seed, view=self.view, spatial=self.row_labels.spatial
            )
        if self.weights is not None:
            batch["weight"] = self.weights.index_select(0, index)
        return batch

    def _mixed(self, batch: Batch, index: Tensor, mixing: Mixing) -> Batch:
        """Mix rows with their partners, which are augmented by their own draws.

        The weight of a sample is the mean of both weights, and its label the mean of both labels
        with their weights, as in a weighted cross-entropy.
        """
        drawn = mixing.draw(index, rows=len(self), seed=self.seed, view=self.view)
        share, mixed = drawn.share, drawn.share < 1
        if not isinstance(self.row_labels, MixableLabels):
            raise TypeError(f"{type(self.row_labels).__name__} cannot be mixed")
        partner = dict(batch)
        if mixed.any():
            others = self._augmented(drawn.partner[mixed])
            partner = {name: one.clone() for name, one in batch.items()}
            for name, one in others.items():
                partner[name][mixed] = one
        batch = {**batch, **drawn.inputs(batch, partner)}
        if "weight" in batch:
            own, batch["weight"] = batch["weight"], mix(batch["weight"], partner["weight"], share)
            share = torch.where(batch["weight"] > 0, own * share / batch["weight"], share)
        return {**batch, **self.row_labels.mixed(index, drawn.partner, share)}

    def for_evaluation(self) -> Split:
        """Return the same rows without augmentation; nothing is copied."""
        return Split(self._samples, self.row_labels, groups=self.groups, weights=self.weights)

    def labelled(self) -> Split:
        """Return the rows with a label, repeated to the length of the split; nothing is copied.

        An epoch has as many batches as one of all rows, each full of rows with a label.
        """
        known = torch.nonzero(self.strata != UNLABELLED).flatten()
        return self if len(known) in (0, len(self)) else _Repeated(self, known)

    def batches(self, size: int) -> Iterator[Batch]:
        """Iterate over all rows once, in order and without augmentation."""
        plain = self.for_evaluation()
        for start in range(0, len(self), size):
            yield plain.__getitems__(torch.arange(start, min(start + size, len(self))))

    def spread(self, count: int) -> list[int]:
        """Select rows evenly over the split, including the longest and the shortest sample.

        Args:
            count: The maximum number of rows; at least two.

        Returns:
            Row numbers in ascending order, all of them if there are no more than `count`.
        """
        if len(self) <= count:
            return list(range(len(self)))
        extremes: set[int] = set()
        if self.lengths is not None:
            extremes = {int(self.lengths.argmin()), int(self.lengths.argmax())}
        even = torch.linspace(0, len(self) - 1, count - len(extremes)).long().tolist()
        return sorted(extremes.union(even))

    def raw(self, index: int) -> dict[str, Any]:
        """Return one row as stored, for display: a PIL image as `image`, or a text as `text`.

        A table row is a text, too: its columns with their values. An image has `view`, the part
        that the model reads; a series `window`, the past values by column.
        """
        return self._samples.raw(index)


class _Repeated(Split):
    """Some rows of a split, repeated to its length: the row `index` is the one at `index mod n`."""

    def __init__(self, split: Split, rows: Tensor) -> None:
        super().__init__(
            split._samples,
            split.row_labels,
            augmentation=split.augmentation,
            groups=split.groups,
            weights=split.weights,
        )
        self._rows = rows

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Batch:
        """Return some rows as a batch; `index` has their numbers in the split."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return super().__getitems__(self._rows[index % len(self._rows)])


@dataclass(frozen=True)
class Division:
    """The rows of each split.

    Attributes:
        rows: The source split and the row indices in it, by split.
        labels: The labels of the source's splits.
        groups: The sensitive features of each row, by split and column, where there are any.
        weights: The weight of each row, by source split, where there are any.
        label_weights: The weight of each training row by its label; None for none.
    """

    rows: dict[str, tuple[str, NDArray[np.int64]]]
    labels: Labels
    groups: dict[str, Groups] = field(default_factory=dict)
    weights: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    label_weights: NDArray[np.float32] | None = None

    def split(
        self,
        name: str,
        samples: Samples,
        preprocess: Preprocess,
        *,
        augmentation: Augmentation | None = None,
    ) -> Split:
        """Build a split of its samples, with their labels and sensitive features.

        Raises:
            InputError: A label does not fit its sample.
        """
        source, rows = self.rows[name]
        labels = self.labels.of(source, rows, samples, preprocess)
        found = self.weights[source][rows] if source in self.weights else None
        if name == "train" and self.label_weights is not None:
            found = self.label_weights if found is None else found * self.label_weights
        weights = None if found is None else torch.from_numpy(found)
        groups = self.groups.get(name, {})
        return Split(samples, labels, augmentation=augmentation, groups=groups, weights=weights)


@dataclass(frozen=True)
class Prepared:
    """Splits ready for batches.

    Attributes:
        splits: Train, validation and test.
        preprocess: The preprocessing of their rows.
        hashes: The hash of each row's model input, by split.
        notes: Inferred, dropped or changed values, for the report.
        expected: The share of rows expected to equal a training row by coincidence.
        digests: A hash of the content of the modality's own columns, by split, if the preparation
            has read it anyway; the source's files are then not read again for the fingerprint.
    """

    splits: dict[str, Split]
    preprocess: Preprocess
    hashes: dict[str, NDArray[np.uint64]]
    notes: tuple[str, ...] = ()
    expected: float = 0.0
    digests: Mapping[str, str] = field(default_factory=dict)


def hash_of(row: NDArray[Any] | bytes) -> int:
    """Hash a row's content to a number below 2**64."""
    content = row if isinstance(row, bytes) else np.ascontiguousarray(row).data
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
