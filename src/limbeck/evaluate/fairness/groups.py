"""Group fairness metrics: demographic parity difference and ratio, equalised odds difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rates:
    r"""The rates of a model per draw and group; each class against the rest.

    A group without samples has no rates: NaN. A group with samples, but none of the kind that a
    rate is a share of (no positives), has the rate 0, as in fairlearn.

    Attributes:
        accuracy: $P(\hat y = y \mid g)$, `[draws, groups]`.
        selection: $P(\hat y = c \mid g)$, `[draws, groups, classes]`.
        hits: $P(\hat y = c \mid g, y = c)$, the same shape.
        false_alarms: $P(\hat y = c \mid g, y \neq c)$, the same shape.
    """

    accuracy: Array
    selection: Array
    hits: Array
    false_alarms: Array


@dataclass(frozen=True)
class Tallies:
    """Counts of samples per group, by label and by prediction.

    Attributes:
        samples: Of the group, `[draws, groups]`.
        labelled: Of these, those of the class, `[draws, groups, classes]`.
        answered: Those predicted as the class, the same shape.
        right: Those correctly predicted as it, the same shape.
    """

    samples: Array
    labelled: Array
    answered: Array
    right: Array

    def rates(self) -> Rates:
        """Compute the rates from the counts."""
        everybody = self.samples[..., None]
        others = everybody - self.labelled
        return Rates(
            accuracy=_share(self.right.sum(axis=-1), self.samples, self.samples),
            selection=_share(self.answered, everybody, everybody),
            hits=_share(self.right, self.labelled, everybody),
            false_alarms=_share(self.answered - self.right, others, everybody),
        )


class Members:
    """Labels, predictions and groups, prepared for counting under many resamples.

    Args:
        labels: `[samples]`.
        predicted: The predicted classes, `[samples]`.
        groups: The group index of each sample, `[samples]`.
        classes: Number of classes.

    Example:
        >>> members = Members(
        ...     np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]), np.array([0, 1, 0, 1]), classes=2
        ... )
        >>> members.rates().accuracy
        array([[1. , 0.5]])
        >>> parity_difference(members.rates())
        array([[0.5, 0.5]])
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        predicted: NDArray[np.int64],
        groups: NDArray[np.int64],
        *,
        classes: int,
    ) -> None:
        self._shape = (int(groups.max()) + 1, classes)
        self._samples = len(labels)
        cells = self._shape[0] * classes
        rows = np.arange(len(labels))
        right = labels == predicted
        places = [
            groups,
            self._shape[0] + groups * classes + labels,
            self._shape[0] + cells + groups * classes + predicted,
            self._shape[0] + 2 * cells + (groups * classes + labels)[right],
        ]
        column = np.concatenate(places)
        row = np.concatenate([rows, rows, rows, rows[right]])
        size = (self._shape[0] + 3 * cells, len(labels))
        # Each sample is in at most four cells, so a sparse product is fast: a thousand draws of ten
        # thousand samples cost as much as four dense ones.
        self._cells = scipy.sparse.csr_array((np.ones(len(row)), (column, row)), shape=size)

    def tally(self, counts: Array | None = None) -> Tallies:
        """Count samples, weighted by `counts [draws, samples]`; by default each counts once."""
        counts = np.ones((1, self._samples)) if counts is None else counts
        table = np.asarray((self._cells @ counts.T).T)
        groups, classes = self._shape
        cells = groups * classes
        ends = [groups, groups + cells, groups + 2 * cells]
        samples, *parts = np.split(table, ends, axis=1)
        return Tallies(samples, *(part.reshape(-1, groups, classes) for part in parts))

    def rates(self, counts: Array | None = None) -> Rates:
        """Compute the rates; `counts` as for `tally`."""
        return self.tally(counts).rates()


def _share(part: Array, of: Array, group: Array) -> Array:
    """Compute a ratio; 0 where the denominator is 0, NaN where the group itself is empty."""
    share = np.divide(part, of, out=np.zeros(part.shape), where=of > 0)
    return np.where(group > 0, share, np.nan)


def spread(rates: Array) -> Array:
    """Compute the largest rate of a group less the smallest, over axis 1; empty groups left out.

    Example:
        >>> spread(np.array([[0.5, 0.8, np.nan]]))
        array([0.3])
    """
    return np.fmax.reduce(rates, axis=1) - np.fmin.reduce(rates, axis=1)


def parity_difference(rates: Rates) -> Array:
    r"""Compute the demographic parity difference of each class, `[draws, classes]`.

    $$\max_g P(\hat y = c \mid g) - \min_g P(\hat y = c \mid g)$$

    Source: Dwork et al., ITCS 2012 (arXiv:1104.3913); fairlearn's
    `demographic_parity_difference`.
    """
    return spread(rates.selection)


def parity_ratio(rates: Rates) -> Array:
    r"""Compute the demographic parity ratio of each class, `[draws, classes]`; NaN for 0 / 0.

    $$\min_g P(\hat y = c \mid g) \;/\; \max_g P(\hat y = c \mid g)$$

    Source: Feldman et al., KDD 2015 (arXiv:1412.3756), with the rule of four fifths; fairlearn's
    `demographic_parity_ratio`.
    """
    least = np.fmin.reduce(rates.selection, axis=1)
    most = np.fmax.reduce(rates.selection, axis=1)
    return np.divide(least, most, out=np.full(most.shape, np.nan), where=most > 0)


def odds_difference(rates: Rates) -> Array:
    r"""Compute the equalised odds difference of each class, `[draws, classes]`.

    $$\max_{y \in \{c, \neg c\}} \Big(\max_g P(\hat y = c \mid g, y)
      - \min_g P(\hat y = c \mid g, y)\Big)$$

    Source: Hardt et al., NeurIPS 2016 (arXiv:1610.02413); fairlearn's `equalized_odds_difference`.
    """
    return np.fmax(spread(rates.hits), spread(rates.false_alarms))
