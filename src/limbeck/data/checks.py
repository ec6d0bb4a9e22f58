"""Validation of a data set's columns and sizes before its rows are read."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING

from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    import datasets


def columns_are_there(
    splits: Mapping[str, datasets.Dataset], columns: Mapping[str, str], *, fix: str = ""
) -> None:
    """Raise an error if a split lacks a column.

    Args:
        splits: The source's splits.
        columns: The required columns, and their key in the recipe, for messages.
        fix: An alternative to the suggested similar column name.

    Raises:
        InputError: A column is missing; the message lists the existing columns and the nearest
            name.
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
    """Raise an error if a split has no rows.

    Raises:
        InputError: A split is empty.

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
    """Raise an error if a row has no text.

    Raises:
        InputError: Texts are missing; the message has their number and the first row, for every
            split.
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
