"""Feature splits from checked table rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from limbeck.data.columns import (
    Categorical,
    Column,
    conversions,
    measure_numbers,
    read_names,
    read_numbers,
)
from limbeck.data.modalities.table._preprocess import TablePreprocess
from limbeck.data.overlap import expected_share
from limbeck.data.split import Division, Prepared, hash_of
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.loaded import Loaded
    from limbeck.data.modalities.table import TableSpec


EXACT = 2**53
"""Larger whole numbers are rounded by double precision."""

NAMES = "Move a column of names to data.table.categorical."
MOST_VALUES = 1000
"""A column with more values is a name or a number of each row, or a text."""


@dataclass(frozen=True)
class _Cells:
    """The columns in use of one of the source's splits."""

    numbers: dict[str, NDArray[np.float64]]
    names: dict[str, Column]

    def take(self, rows: NDArray[np.int64]) -> _Cells:
        return _Cells(
            {column: numbers[rows] for column, numbers in self.numbers.items()},
            {column: names.take(rows) for column, names in self.names.items()},
        )


def prepare(settings: TableSpec, loaded: Loaded, division: Division) -> Prepared:
    """Build splits of features; means, deviations and values come from the training rows only.

    A column that is constant over the training rows is dropped, with a note.

    Raises:
        InputError: A numeric column holds other values, a categorical one has more than 1000, or
            all columns are constant. The message lists every problem of every column.
    """
    read = _read(settings, loaded)
    cells = {name: read[source].take(rows) for name, (source, rows) in division.rows.items()}
    preprocess, constant = _measure(settings, cells["train"])
    splits, hashes, expected = {}, {}, 0.0
    for name, (source, rows) in division.rows.items():
        shown = loaded.splits[source].select_columns(list(settings.columns)).select(rows)
        numbers = preprocess.numbers(cells[name].numbers, rows=len(rows))
        places = preprocess.places(cells[name].names, rows=len(rows))
        samples = Rows(shown, preprocess, numbers, places)
        hashes[name] = samples.hashes
        if name == "train":
            expected = expected_share(samples.cells, samples.hashes)
        splits[name] = division.split(name, samples, preprocess)
    notes = [*_conversion_notes(settings, loaded), *_notes(preprocess, cells)]
    if constant:
        notes.append(f"left out, since all training rows are equal in it: {', '.join(constant)}")
    return Prepared(splits, preprocess, hashes, tuple(notes), expected)


class Rows:
    """Table rows, held as numeric features and indices of one-hot features.

    Args:
        dataset: The rows, for display.
        prepare: The preprocessing to features.
        numbers: The result of `TablePreprocess.numbers`.
        places: The result of `TablePreprocess.places`.

    Attributes:
        cells: Codes of each row's values, int64 `[n, columns]`.
        hashes: A hash of each row's features, `[n]`.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        prepare: TablePreprocess,
        numbers: NDArray[np.float32],
        places: NDArray[np.int64],
    ) -> None:
        self._dataset = dataset
        self._prepare = prepare
        self._numbers = numbers
        self._places = places
        # Compared bitwise: only equality matters.
        bits = (numbers + np.float32(0)).view(np.int32)
        self.cells = np.hstack([bits.astype(np.int64), places])
        self.hashes = np.array([hash_of(row) for row in self.cells], dtype=np.uint64)

    def __len__(self) -> int:
        return len(self._numbers)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return `features`, float32 `[n, width]`."""
        rows = index.numpy()
        features = self._prepare.features(self._numbers[rows], self._places[rows])
        return {"features": torch.from_numpy(features)}

    def raw(self, row: int) -> dict[str, Any]:
        """Return `text`: every column with its value, as stored."""
        cells = self._dataset[row]
        return {"text": ", ".join(f"{column}: {value}" for column, value in cells.items())}


def _read(settings: TableSpec, loaded: Loaded) -> dict[str, _Cells]:
    problems: list[Problem] = []
    read = {source: _Cells({}, {}) for source in loaded.splits}
    for source, dataset in loaded.splits.items():
        for column in settings.columns:
            kind = "numeric" if column in settings.numeric else "categorical"
            where = f"data.table.{kind} ({column!r} in {source})"
            with gathering(problems):
                if kind == "numeric":
                    read[source].numbers[column] = read_numbers(
                        dataset, column, where=where, fix=NAMES
                    )
                else:
                    read[source].names[column] = read_names(dataset, column, where=where)
    if problems:
        raise InputError(*problems)
    return read


def _measure(settings: TableSpec, train: _Cells) -> tuple[TablePreprocess, list[str]]:
    """Fit every column on the training rows; return the constant columns too."""
    problems = []
    for column, names in train.names.items():
        if len(names.values) > MOST_VALUES:
            where = f"data.table.categorical ({column!r} in train)"
            allowed = f"at most {MOST_VALUES}, a feature each"
            fix = "Leave it out, or join rare values."
            problems.append(Problem(where, f"{len(names.values)} values", allowed, fix))
    numeric = {name: measure_numbers(name, numbers) for name, numbers in train.numbers.items()}
    values = {name: names for name, names in train.names.items() if len(names.values) > 1}
    categorical = tuple(Categorical(name, one.values, one.kind) for name, one in values.items())
    constant = [name for name, one in numeric.items() if one is None]
    constant += [name for name in train.names if name not in values]
    if len(constant) == len(settings.columns):
        given = f"{', '.join(constant)}: all training rows are equal"
        problems.append(Problem("data.table", given, "a column with different values"))
    if problems:
        raise InputError(*problems)
    kept = tuple(one for one in numeric.values() if one is not None)
    return TablePreprocess(kept, categorical), constant


def _conversion_notes(settings: TableSpec, loaded: Loaded) -> list[str]:
    """Return notes on values of numeric columns that are no plain numbers."""
    found: dict[str, dict[str, str]] = {}
    for column in settings.numeric:
        for dataset in loaded.splits.values():
            for change, text in conversions(dataset, column).items():
                found.setdefault(change, {}).setdefault(column, text)
    fix = "For a code or a category, move the column to table.categorical"
    return [
        f"numeric columns with {change}: "
        + ", ".join(f"{column} ({text!r})" for column, text in columns.items())
        + f". {fix}"
        for change, columns in found.items()
    ]


def _notes(preprocess: TablePreprocess, cells: dict[str, _Cells]) -> list[str]:
    """Return notes on numbers that lose digits in float32, and on values unknown in training."""
    notes = []
    numbers = [item for split in cells.values() for item in split.numbers.items()]
    inexact = sorted({name for name, values in numbers if (np.abs(values) > EXACT).any()})
    if inexact:
        notes.append(
            f"numbers beyond 2^53, whose last digits are lost: {', '.join(inexact)}. "
            "Identifiers are not numbers: leave them out, or move them to table.categorical"
        )
    for split in ("validation", "test"):
        unknown = []
        for one in preprocess.categorical:
            places = one.places(cells[split].names[one.name])
            count = int((places == len(one.values)).sum())
            if count:
                unknown.append(f"{one.name} in {count} rows")
        if unknown:
            notes.append(f"{split}: values that training lacks: {', '.join(unknown)}")
    return notes
