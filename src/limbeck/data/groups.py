"""Sensitive features of validation and test rows: columns kept beside the samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.data import checks
from limbeck.data.columns import MISSING, read_names
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    import datasets
    import numpy as np
    from numpy.typing import NDArray

    Groups = dict[str, NDArray[np.str_]]

MOST = 50
"""More groups leave too few samples in each to say anything of it."""

UNSTATED = "not stated"
KEPT = ("validation", "test")


def read_groups(
    splits: Mapping[str, datasets.Dataset],
    rows: Mapping[str, tuple[str, NDArray[np.int64]]],
    columns: tuple[str, ...],
) -> dict[str, Groups]:
    """Read the sensitive features of the validation and test rows.

    A row without a value belongs to the group "not stated".

    Args:
        splits: The source's splits.
        rows: The source split and the row indices in it, by split.
        columns: The sensitive feature columns.

    Returns:
        The group of each validation and test row, `[rows]`, by column.

    Raises:
        InputError: A column is missing, or has more than 50 values; the message lists every
            problem.
    """
    kept = {name: rows[name] for name in KEPT}
    sources = {source: splits[source] for source, _ in kept.values()}
    checks.columns_are_there(sources, dict.fromkeys(columns, "data.groups"))
    groups: dict[str, Groups] = {name: {} for name in kept}
    problems = []
    for column in columns:
        for name, (source, numbers) in kept.items():
            where = f"data.groups ({column!r} in {source})"
            named = read_names(splits[source], column, where=where).take(numbers)
            if len(named.values) > MOST:
                problems.append(_too_many(splits[source], column, len(named.values), where))
                break
            groups[name][column] = _stated(named.names())
    if problems:
        raise InputError(*problems)
    return groups


def _stated(names: NDArray[np.str_]) -> NDArray[np.str_]:
    import numpy as np

    return np.where(names == MISSING, UNSTATED, names)


def _too_many(dataset: datasets.Dataset, column: str, count: int, where: str) -> Problem:
    fix = "Name a column with fewer values."
    if str(getattr(dataset.features[column], "dtype", "")).startswith(("int", "uint", "float")):
        fix = "Add a column that bins the numbers, such as under 30, 30 to 50, over 50."
    return Problem(where, f"{count} values", f"at most {MOST}, a group each", fix)
