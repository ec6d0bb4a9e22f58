"""The labels of every split, checked, as whole numbers that name classes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Labels:
    """The class of each row of each split, the classes' names, and notes for the report."""

    rows: dict[str, NDArray[np.int64]]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_labels(
    splits: dict[str, datasets.Dataset], column: str, classes: tuple[str, ...] | None
) -> Labels:
    """Read the labels of all splits and hold them against the classes.

    Labels are whole numbers from 0, or the classes' names if `classes` lists them. Without
    `classes` the names are those that the source knows, or the numbers.

    Raises:
        InputError: Labels are missing, not whole numbers, out of range or with gaps; or a split
            has a class that training has not. Every problem of every split is named.
    """
    names = classes or _names_in_source(splits["train"], column)
    problems: list[Problem] = []
    rows: dict[str, NDArray[np.int64]] = {}
    for split, dataset in splits.items():
        where = f"data.columns.label ({column!r} in {split})"
        values = _numbers(dataset, column, classes, where, problems)
        if values is not None:
            problems += _out_of_range(values, len(names) if names else None, where)
            rows[split] = values
    if not problems:
        problems += _unseen(rows, named=names is not None)
    if problems:
        raise InputError(*problems)
    names = names or tuple(str(number) for number in range(int(rows["train"].max()) + 1))
    absent = sorted(set(range(len(names))) - set(rows["train"].tolist()))
    missing = ", ".join(names[number] for number in absent)
    return Labels(rows, names, (f"no row of the class {missing} in train",) if absent else ())


def _names_in_source(dataset: datasets.Dataset, column: str) -> tuple[str, ...] | None:
    names = getattr(dataset.features[column], "names", None)
    return tuple(names) if names else None


def _numbers(
    dataset: datasets.Dataset,
    column: str,
    classes: tuple[str, ...] | None,
    where: str,
    problems: list[Problem],
) -> NDArray[np.int64] | None:
    values = dataset.select_columns([column]).with_format("arrow")[:].column(column)
    raw = values.to_pandas().to_numpy()
    missing = np.flatnonzero(raw != raw) if raw.dtype.kind == "f" else _none(raw)
    if len(missing):
        given = f"no label in {len(missing)} of {len(raw)} rows, the first is row {missing[0]}"
        problems.append(Problem(where, given, "a label in every row"))
    elif raw.dtype.kind in "iub":
        return raw.astype(np.int64)
    elif raw.dtype.kind in "OUT" and all(isinstance(value, str) for value in raw):
        return _by_name(raw, classes, where, problems)
    else:
        given = f"{raw.dtype} ({raw[0]} in row 0)" if len(raw) else str(raw.dtype)
        problems.append(Problem(where, given, "whole numbers from 0, one a class"))
    return None


def _none(raw: NDArray[Any]) -> NDArray[np.int64]:
    if raw.dtype.kind != "O":
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero([value is None or value != value for value in raw])


def _by_name(
    raw: NDArray[Any], classes: tuple[str, ...] | None, where: str, problems: list[Problem]
) -> NDArray[np.int64] | None:
    if classes is None:
        found = sorted(set(raw))
        shown = ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
        fix = f"List the names in data.classes; those found: {shown}"
        problems.append(Problem(where, f"names ({raw[0]!r} in row 0)", "whole numbers from 0", fix))
        return None
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [row for row, name in enumerate(raw) if name not in numbers]
    if unknown:
        given = f"{raw[unknown[0]]!r} in row {unknown[0]} ({len(unknown)} such rows)"
        fix = did_you_mean(raw[unknown[0]], classes)
        problems.append(
            Problem(where, given, f"the names in data.classes: {', '.join(classes)}", fix)
        )
        return None
    return np.array([numbers[name] for name in raw], dtype=np.int64)


def _out_of_range(values: NDArray[np.int64], count: int | None, where: str) -> list[Problem]:
    top = np.iinfo(np.int64).max if count is None else count
    wrong = np.flatnonzero((values < 0) | (values >= top))
    if not len(wrong):
        return []
    given = f"{values[wrong[0]]} in row {wrong[0]} ({len(wrong)} such rows)"
    allowed = f"0 to {count - 1}, one a class" if count else "whole numbers from 0"
    return [Problem(where, given, allowed)]


def _unseen(rows: dict[str, NDArray[np.int64]], *, named: bool) -> list[Problem]:
    seen = set(rows["train"].tolist())
    problems = []
    # A label may be anything up to 2**63: the gaps are counted out only as far as they are shown.
    gaps = list(islice((number for number in range(max(seen)) if number not in seen), 10))
    if gaps and not named:
        given = f"labels up to {max(seen)} without {', '.join(map(str, gaps))}"
        fix = "Renumber them, or list every class in data.classes."
        problems.append(Problem("data (labels of train)", given, "0 to n - 1 without gaps", fix))
    for split, values in rows.items():
        new = sorted(set(values.tolist()) - seen)
        if new:
            given = f"classes {', '.join(map(str, new[:10]))}, which train has not"
            allowed = f"the {len(seen)} classes that train has"
            problems.append(Problem(f"data (labels of {split})", given, allowed))
    return problems
