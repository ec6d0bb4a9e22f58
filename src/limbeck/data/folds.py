"""Splits of k-fold cross-validation: the test is one fold of the rows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.data.split_by import Draw


@dataclass(frozen=True)
class ByFold:
    """Splits whose test is one of k folds: each row is in the test of exactly one of them.

    Attributes:
        strata: The stratum of each training row; folds have about the shares of all.
        folds: The number of folds.
        fold: The number of the test's fold, from 0.
        seed: The random seed; all folds need the same.
        rest: Draws the validation rows from the other folds.
        groups: The group of each training row, which no two folds share; None without groups.
    """

    strata: NDArray[np.int64]
    folds: int
    fold: int
    seed: int
    rest: Draw
    groups: NDArray[np.int64] | None = None

    def take(
        self, name: str, rows: NDArray[np.int64], share: float
    ) -> tuple[NDArray[np.bool_], str]:
        """Select the fold of the test; draw validation from the other rows."""
        if name != "test":
            return self.rest.take(name, rows, share)
        groups = None if self.groups is None else self.groups[rows]
        chosen = folds_of(self.strata[rows], self.folds, seed=self.seed, groups=groups) == self.fold
        note = (
            f"The test split has {int(chosen.sum()):,} of the {len(rows):,} training rows: fold "
            f"{self.fold} of {self.folds}, numbered from 0, with split_seed {self.seed}."
        )
        return chosen, note

    def fits(self, others: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows without a label may stay in train."""
        return self.rest.fits(others, drawn)


def folds_of(
    strata: NDArray[np.int64],
    count: int,
    *,
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return the fold of each row, as scikit-learn's StratifiedKFold or StratifiedGroupKFold.

    Args:
        strata: The stratum of each row.
        count: The number of folds.
        seed: The random seed of the shuffle.
        groups: The group of each row; rows of a group are in one fold.

    Raises:
        InputError: There are fewer groups, or fewer rows of every stratum, than folds.

    Example:
        >>> found = folds_of(np.array([0, 1] * 6), 3, seed=0)
        >>> np.bincount(found).tolist()
        [4, 4, 4]
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if groups is not None and len(np.unique(groups)) < count:
        allowed = f"at most {len(np.unique(groups))}, the number of groups"
        raise InputError(Problem("data.split.folds", count, allowed))
    options = {"n_splits": count, "shuffle": True, "random_state": seed % 2**32}
    numbers = np.empty(len(strata), dtype=np.int64)
    most = int(np.unique(strata, return_counts=True)[1].max())
    if most < count:
        allowed = f"at most {most}, the rows of the most frequent class or bin"
        raise InputError(Problem("data.split.folds", count, allowed))
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(**options)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a rare class is not in every fold: `check_classes` notes it
        for fold, (_, test) in enumerate(splitter.split(strata, strata, groups)):
            numbers[test] = fold
    return numbers
