"""What is wrong with a data set before a row of it is looked at, every problem at once."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING

from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    import datasets


def columns_are_there(
    splits: Mapping[str, datasets.Dataset], columns: Mapping[str, str], *, fix: str = ""
) -> None:
    """Refuse a split that lacks a column.

    Args:
        splits: The source's splits.
        columns: The columns that each has to have, and their place in the recipe, for messages.
        fix: What else to do than to take the column that is called nearly so.

    Raises:
        InputError: Some lack one; the columns that there are and the nearest of them are named.
    """
    problems = [
        Problem(
            f"{where} (of {split})",
            column,
            ", ".join(dataset.column_names),
            f"{did_you_mean(column, dataset.column_names)} {fix}".strip(),
        )
        for split, dataset in splits.items()
        for column, where in columns.items()
        if column not in dataset.column_names
    ]
    if problems:
        raise InputError(*problems)


def rows_are_there(splits: Mapping[str, Sized]) -> None:
    """Refuse a split without rows.

    Raises:
        InputError: Some have none.

    Example:
        >>> rows_are_there({"train": [1, 2], "test": []})
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: data (test): got 'no rows'; allowed: at least one row. ...
    """
    fix = "Give it rows, or a larger share of those that there are."
    problems = [
        Problem(f"data ({split})", "no rows", "at least one row", fix)
        for split, rows in splits.items()
        if len(rows) == 0
    ]
    if problems:
        raise InputError(*problems)


def texts_are_there(splits: Mapping[str, datasets.Dataset], column: str) -> None:
    """Refuse rows without a text.

    Raises:
        InputError: Some have none; how many and the first are named, for every split.
    """
    problems = []
    for split, dataset in splits.items():
        values = list(dataset[column])
        wrong = [row for row, value in enumerate(values) if not isinstance(value, str)]
        if wrong:
            given = f"{values[wrong[0]]!r} in row {wrong[0]} ({len(wrong)} such rows)"
            where = f"data.columns.text ({column!r} in {split})"
            problems.append(Problem(where, given, "a text in every row"))
    if problems:
        raise InputError(*problems)
