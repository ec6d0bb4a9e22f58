"""The data that a source returns, before it is split and converted to tensors, and its checks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Loaded:
    """The splits of a source.

    Attributes:
        splits: `train`, and `validation` and `test` if the source has them.
        files: The files read, by split; empty if there are none to hash.
        divide_by: The divisor that scales pixel values to [0, 1]; by the pixel dtype if None.
        licence: The licence stated by the source.
        notes: Rows or values that the source left out or changed, for the report.
    """

    splits: dict[str, datasets.Dataset]
    files: dict[str, list[Path]] = field(default_factory=dict)
    divide_by: float | None = None
    licence: str = ""
    notes: tuple[str, ...] = ()


def check_columns(
    splits: Mapping[str, datasets.Dataset], columns: Mapping[str, str], *, fix: str = ""
) -> None:
    """Raise an error if a split lacks a column of `columns`, given with its key in the recipe.

    Raises:
        InputError: A column is missing; the message lists the existing and the nearest ones.
    """
    problems = []
    for split, dataset in splits.items():
        existing = dataset.column_names
        for column, where in columns.items():
            if column not in existing:
                hint = f"{did_you_mean(column, existing)} {fix}".strip()
                problems.append(Problem(f"{where} (of {split})", column, ", ".join(existing), hint))
    if problems:
        raise InputError(*problems)


SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The split that a value of a split column names."""


def split_by_column(loaded: Loaded, column: str) -> Loaded:
    """Divide the rows of a source into the splits that a column names.

    Raises:
        InputError: The source has several splits already, the column is missing, a value names no
            split, or no row is of train.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({"part": ["val", "train", "train"]})
        >>> found = split_by_column(Loaded({"train": rows}), "part").splits
        >>> {name: len(one) for name, one in found.items()}
        {'train': 2, 'validation': 1}
    """
    where = "data.split_column"
    if len(loaded.splits) > 1:
        given = f"{column}, beside the splits {', '.join(loaded.splits)}"
        raise InputError(Problem(where, given, "with the rows of one split, train"))
    [rows] = loaded.splits.values()
    check_columns(loaded.splits, {column: where})
    values = list(rows[column])
    names = [SPLITS.get(str(value).casefold()) for value in values]
    unknown = [row for row, name in enumerate(names) if name is None]
    if unknown or "train" not in names:
        given = f"{values[unknown[0]]!r} in row {unknown[0]}" if unknown else "no row of train"
        raise InputError(Problem(f"{where} ({column!r})", given, f"one of {', '.join(SPLITS)}"))
    splits = {
        name: rows.select([row for row, own in enumerate(names) if own == name])
        for name in dict.fromkeys(SPLITS.values())
        if name in names
    }
    files = dict.fromkeys(splits, loaded.files["train"]) if loaded.files else {}
    return replace(loaded, splits=splits, files=files)


def check_rows(splits: Mapping[str, Sized]) -> None:
    """Raise an error if a split has no rows.

    Raises:
        InputError: A split is empty.

    Example:
        >>> check_rows({"train": [1, 2], "test": []})
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: data (test): got 'no rows'; allowed: at least one row. ...
    """
    fix = "Add rows, or set a larger share of the existing ones."
    empty = [split for split, rows in splits.items() if len(rows) == 0]
    if empty:
        rows = "at least one row"
        raise InputError(*(Problem(f"data ({split})", "no rows", rows, fix) for split in empty))


@contextmanager
def quiet() -> Iterator[None]:
    """Disable the progress bars of `datasets` if the output is not a terminal."""
    import datasets

    silence = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if silence:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if silence:
            datasets.enable_progress_bars()
