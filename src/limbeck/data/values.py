"""Numeric targets of every split: regression, with one column or several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from limbeck.data.columns import read_numbers
from limbeck.data.labels import Labels
from limbeck.data.preprocess import Target
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray

BINS = 10
"""Splits are stratified by this many bins of equal size of the first target."""


def read_values(splits: dict[str, datasets.Dataset], columns: tuple[str, ...]) -> Labels:
    """Read the numeric targets of all splits, float32 `[rows, targets]`.

    Raises:
        InputError: A cell has no finite number, or a target is constant over the training rows; the
            message lists every problem.
    """
    problems: list[Problem] = []
    values = {}
    for split, dataset in splits.items():
        read = []
        for column in columns:
            where = f"data.targets ({column!r} in {split})"
            with gathering(problems):
                read.append(read_numbers(dataset, column, where=where))
                missing = np.flatnonzero(np.isnan(read[-1]))
                if len(missing):
                    given = f"no number in {len(missing)} rows, the first is row {missing[0]}"
                    raise InputError(Problem(where, given, "a number in every row"))
        if len(read) == len(columns):
            values[split] = np.stack(read, axis=1).astype(np.float32)
    if problems:
        raise InputError(*problems)
    constant = [
        Problem(
            f"data.targets ({column!r} in train)",
            f"{values['train'][0, place]} in every row",
            "numbers that differ",
        )
        for place, column in enumerate(columns)
        if np.ptp(values["train"][:, place]) == 0
    ]
    if constant:
        raise InputError(*constant)
    edges = np.quantile(values["train"][:, 0], np.linspace(0, 1, BINS + 1)[1:-1])
    bins = {
        split: np.searchsorted(edges, one[:, 0]).astype(np.int64) for split, one in values.items()
    }
    return Labels(bins, (), values=values)


def measure_targets(columns: tuple[str, ...], train: NDArray[np.float32]) -> tuple[Target, ...]:
    """Compute mean and standard deviation of each target over the training rows."""
    rows = train.astype(np.float64)
    return tuple(
        Target(
            column,
            mean=float(rows[:, place].mean()),
            std=float(rows[:, place].std()),
            binary=bool(np.isin(rows[:, place], (0, 1)).all()),
        )
        for place, column in enumerate(columns)
    )
