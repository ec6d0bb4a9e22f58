"""Splits by groups of rows, such as patients, by folds, or by time."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from limbeck.data.columns import MISSING, number, read_names
from limbeck.data.folds import ByFold
from limbeck.data.loaded import check_columns
from limbeck.data.stratify import Stratified
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray

    from limbeck.data.spec import DataSpec

DRAWS = 200
"""Draws of groups, of which the one with the shares of classes nearest to those of all is taken."""
SHOWN = 5


class Draw(Protocol):
    """A method to draw the rows of a split from those of train."""

    def take(
        self, name: str, rows: NDArray[np.int64], share: float
    ) -> tuple[NDArray[np.bool_], str]:
        """Return which of the training rows a split takes, and a note for the report."""
        ...

    def fits(self, others: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which other rows may stay in train, beside the rows drawn for other splits."""
        ...


def draw_of(
    spec: DataSpec,
    splits: Mapping[str, datasets.Dataset],
    strata: Mapping[str, NDArray[np.int64]],
    *,
    by: str = "class",
) -> Draw | None:
    """Return how splits are drawn from the training rows by `data.split`; None if not given.

    Args:
        spec: The data section.
        splits: The source's splits.
        strata: The stratum of each row, by the source's split.
        by: What the strata are, for notes.

    Raises:
        InputError: The column is missing or has no value in a row; a group is in two of the
            source's splits; or the source has a test split beside folds.
    """
    own, seed = spec.split, spec.split_seed
    if own is None:
        return None
    groups: NDArray[np.int64] | None = None
    rest: Draw | None = None
    if own.group is not None:
        groups = _read_groups(splits, own.group)
        rest = ByGroup(groups, strata["train"], own.group, seed)
    if own.folds is not None and own.fold is not None:
        if "test" in splits:
            fix = "Name all rows in files.train, or remove data.split.folds."
            given = "a source with a test split"
            raise InputError(Problem("data.split.folds", given, "rows without a test split", fix))
        rest = rest or Stratified(strata["train"], seed, by)
        return ByFold(strata["train"], own.folds, own.fold, seed, rest, groups)
    if rest is not None:
        return rest
    column = str(own.time)
    check_columns({"train": splits["train"]}, {column: "data.split.time"})
    return ByTime(read_times(splits["train"], column), column)


@dataclass(frozen=True)
class ByGroup:
    """Splits of whole groups.

    Attributes:
        groups: The group of each training row.
        strata: The stratum of each training row.
        column: The column of the groups, for notes.
        seed: The random seed.
    """

    groups: NDArray[np.int64]
    strata: NDArray[np.int64]
    column: str
    seed: int

    def take(
        self, name: str, rows: NDArray[np.int64], share: float
    ) -> tuple[NDArray[np.bool_], str]:
        """Draw groups."""
        own = self.groups[rows]
        chosen = choose_groups(own, self.strata[rows], share, seed=self.seed)
        count, total = len(np.unique(own[chosen])), len(np.unique(own))
        note = (
            f"The {name} split has {int(chosen.sum()):,} of the {len(rows):,} training rows: "
            f"{count:,} of {total:,} groups of {self.column!r}, drawn with split_seed {self.seed}."
        )
        return chosen, note

    def fits(self, others: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows are in no group that another split has."""
        return ~np.isin(self.groups[others], self.groups[drawn])


@dataclass(frozen=True)
class ByTime:
    """Splits of the last rows.

    Attributes:
        times: The time of each training row.
        column: The column of the times, for notes.
    """

    times: NDArray[np.float64]
    column: str

    def take(
        self, name: str, rows: NDArray[np.int64], share: float
    ) -> tuple[NDArray[np.bool_], str]:
        """Select the last rows; those of one moment stay together."""
        own = self.times[rows]
        chosen = own >= np.sort(own)[-max(1, round(share * len(rows)))]
        note = (
            f"The {name} split has the last {int(chosen.sum()):,} of the {len(rows):,} training "
            f"rows by {self.column!r}."
        )
        return chosen, note

    def fits(self, others: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows are earlier than those of other splits."""
        return self.times[others] < self.times[drawn].min(initial=np.inf)


def choose_groups(
    groups: NDArray[np.int64], strata: NDArray[np.int64], share: float, *, seed: int
) -> NDArray[np.bool_]:
    """Draw whole groups of rows, whose strata have about the given share.

    Of 200 random draws of groups the one is taken whose counts per stratum are nearest to `share`
    of all, in the sum of absolute differences.

    Args:
        groups: The group of each row.
        strata: The stratum of each row.
        share: The share of rows to draw.
        seed: The random seed.

    Returns:
        A mask over the rows.

    Raises:
        InputError: There is only one group.

    Example:
        >>> groups = np.repeat(np.arange(10), 3)
        >>> int(choose_groups(groups, np.zeros(30, np.int64), 0.2, seed=0).sum())
        6
    """
    from sklearn.model_selection import GroupShuffleSplit

    if len(np.unique(groups)) < 2:
        raise InputError(Problem("data.split.group", "one group", "at least two groups to divide"))
    values, codes = np.unique(strata, return_inverse=True)
    wanted = share * np.bincount(codes, minlength=len(values))
    best, least = None, np.inf
    draws = GroupShuffleSplit(DRAWS, test_size=share, random_state=seed % 2**32)
    for _, drawn in draws.split(codes, groups=groups):
        difference = np.abs(np.bincount(codes[drawn], minlength=len(values)) - wanted).sum()
        if difference < least:
            best, least = drawn, difference
    chosen = np.zeros(len(groups), dtype=np.bool_)
    chosen[best] = True
    return chosen


def _read_groups(splits: Mapping[str, datasets.Dataset], column: str) -> NDArray[np.int64]:
    """Read the group of each training row; check that no other split of the source has it."""
    check_columns(splits, {column: "data.split.group"})
    problems: list[Problem] = []
    names: dict[str, NDArray[np.str_]] = {}
    for split, dataset in splits.items():
        where = f"data.split.group ({column!r} in {split})"
        with gathering(problems):
            names[split] = read_names(dataset, column, where=where).names()
            missing = np.flatnonzero(names[split] == MISSING)
            if len(missing):
                given = f"no group in {len(missing)} rows, the first is row {missing[0]}"
                problems.append(Problem(where, given, "a group in every row"))
    if problems:
        raise InputError(*problems)
    order = list(names)
    for place, split in enumerate(order):
        for other in order[:place]:
            shared = sorted(set(names[split]) & set(names[other]))
            if shared:
                listed = ", ".join(shared[:SHOWN]) + (", ..." if len(shared) > SHOWN else "")
                given = f"{len(shared)} groups of {split} that {other} has too: {listed}"
                where = f"data.split.group ({column!r})"
                problems.append(Problem(where, given, "each group in one split of the source"))
    if problems:
        raise InputError(*problems)
    return np.unique(names["train"], return_inverse=True)[1].astype(np.int64)


def read_times(dataset: datasets.Dataset, column: str) -> NDArray[np.float64]:
    """Read a column of numbers, dates or ISO 8601 texts as numbers that increase with time.

    Raises:
        InputError: A row has no such value; the message has the first one.
    """
    where = f"data.split.time ({column!r} in train)"
    cells = list(dataset.with_format(None)[column])
    times = np.empty(len(cells))
    allowed = "a number, a date or a text such as 2024-05-01 12:00 in every row"
    for row, cell in enumerate(cells):
        try:
            times[row] = _moment(cell)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(Problem(where, f"{cell!r} in row {row}", allowed)) from error
    return times


def _moment(cell: Any) -> float:
    if isinstance(cell, str):
        try:
            found = number(cell)
        except ValueError:  # a date as a text
            return _moment(datetime.datetime.fromisoformat(cell.strip()))
    elif isinstance(cell, datetime.datetime):
        return cell.replace(tzinfo=cell.tzinfo or datetime.UTC).timestamp()
    elif isinstance(cell, datetime.date):
        return _moment(datetime.datetime(cell.year, cell.month, cell.day))
    else:
        found = number(cell)
    if np.isnan(found):
        raise ValueError("missing")
    return found
