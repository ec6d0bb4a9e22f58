"""Mapping of labels to class indices by class names, over all splits."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.errors import InputError, Problem, did_you_mean, gathering

if TYPE_CHECKING:
    from collections.abc import Sequence

    import datasets
    from numpy.typing import NDArray

NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
PLACEHOLDER = re.compile(r"(?:LABEL_)?(0|[1-9][0-9]{0,17})")
"""Names without information: a class's number, or the name that transformers writes for it."""
FALSE, TRUE = ("false", "no", "f", "n", "0"), ("true", "yes", "t", "y", "1")
SHOWN = 20
TEACHER_ALONE = "With data.unlabelled: true such rows train under the teacher alone."


@dataclass(frozen=True)
class _Column:
    """The labels of a split, as codes into its distinct values.

    Attributes:
        where: The key in the recipe, for messages.
        codes: The index of each row's label in `values`, int64 `[rows]`.
        values: The distinct labels, as texts.
        named: Whether the values are names, not bare numbers.
        order: The class names that the source declares, in its order; None if it declares none.
        boolean: Whether the labels are booleans.
    """

    where: str
    codes: NDArray[np.int64]
    values: tuple[str, ...]
    named: bool
    order: tuple[str, ...] | None = None
    boolean: bool = False

    def rows_of(self, value: str) -> NDArray[np.int64]:
        return np.flatnonzero(self.codes == self.values.index(value))

    def numbers(self) -> dict[str, int] | None:
        """Return the number of each value; None if some are names."""
        if not self.named and not self.boolean:
            return {value: int(value) for value in self.values}
        names, pattern = (self.order, PLACEHOLDER) if self.order else (self.values, NUMBER)
        if not all(pattern.fullmatch(name) for name in names):
            return None
        return {name: int(name.removeprefix("LABEL_")) for name in names}


def class_rows(
    splits: dict[str, datasets.Dataset],
    column: str,
    classes: tuple[str, ...] | None,
    *,
    key: str = "data.columns.label",
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...], tuple[str, ...]]:
    """Read the labels of all splits, and map each to a class.

    If the source names its classes (folders, a `ClassLabel` feature, texts), labels are mapped by
    name per split: `classes` may list the names in any order, and the order may differ between
    splits. Names that differ only in case, spaces or underscores are equal. Bare numbers are
    indices into `classes`, unless its names are these numbers. Without `classes` the classes are
    those that the training split declares, or the numbers.

    Returns:
        The class of each row by split, the class names, and notes for the report.

    Raises:
        InputError: Labels are missing, lists, out of range or with gaps; a name is not among the
            classes; or a split has a class that training lacks. The message lists every problem of
            every split.
    """
    problems: list[Problem] = []
    columns: dict[str, _Column] = {}
    for split, dataset in splits.items():
        with gathering(problems):
            columns[split] = _read(
                dataset,
                column,
                f"{key} ({column!r} in {split})",
                fix=TEACHER_ALONE if split == "train" else "",
            )
    if problems:
        raise InputError(*problems)
    names = classes or _declared(columns)
    rows: dict[str, NDArray[np.int64]] = {}
    notes: list[str] = []
    positional: list[str] = []
    for split, labels in columns.items():
        with gathering(problems):
            table = _map_by_name(labels, names, stated=classes is not None)
            if table is None:
                positional.append(split)
                table = _map_by_number(labels, len(names) if names else None)
            rows[split] = table[labels.codes]
            notes += _mapping_notes(split, labels, table, names)
    problems += _mixed_kinds(columns, positional, names)
    if not problems:
        problems += _unseen_classes(rows, names)
    if problems:
        raise InputError(*problems)
    names = names or tuple(str(number) for number in range(int(rows["train"].max()) + 1))
    absent = sorted(set(range(len(names))) - set(np.unique(rows["train"]).tolist()))
    if absent:
        listed = _listed([names[number] for number in absent])
        notes.append(f"no row of the class {listed} in train")
    return rows, names, tuple(notes)


def _read(dataset: datasets.Dataset, column: str, where: str, *, fix: str = "") -> _Column:
    """Read a split's labels, of any stored type."""
    import pyarrow  # type: ignore[import-untyped]

    cells, feature = _flattened(dataset, column, where)
    kind, types = cells.type, pyarrow.types
    if types.is_floating(kind):
        cells = _as_integers(cells, where)
    if cells.null_count:
        missing = np.flatnonzero(cells.is_null().to_numpy(zero_copy_only=False))
        given = f"no label in {len(missing)} of {len(cells)} rows, the first is row {missing[0]}"
        raise InputError(Problem(where, given, "a label in every row", fix))
    if types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if types.is_boolean(cells.type):
        codes = cells.cast("int64").to_numpy(zero_copy_only=False)
        return _Column(where, codes, ("False", "True"), named=False, boolean=True)
    order = tuple(getattr(feature, "names", None) or ()) or None
    if types.is_integer(cells.type):
        values, codes = np.unique(cells.to_numpy(zero_copy_only=False), return_inverse=True)
        numbered = _Column(where, codes, tuple(map(str, values.tolist())), named=False)
        if order is None:
            return numbered
        _map_by_number(numbered, len(order))  # raises for numbers out of range
        used = tuple(order[value] for value in values.tolist())
        return _Column(where, codes, used, named=True, order=order)
    if types.is_string(cells.type) or types.is_large_string(cells.type):
        coded = cells.dictionary_encode()
        codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return _Column(where, codes, tuple(coded.dictionary.to_pylist()), named=True)
    given = f"{kind} ({cells[0].as_py()!r} in row 0)"
    raise InputError(Problem(where, given, "whole numbers from 0, or the classes' names"))


def _flattened(dataset: datasets.Dataset, column: str, where: str) -> tuple[Any, Any]:
    """Return the column as one array, with lists of one label flattened, and its feature."""
    import pyarrow

    cells = dataset.select_columns([column]).with_format("arrow")[:].column(column)
    cells, feature = cells.combine_chunks(), dataset.features[column]
    if isinstance(cells, pyarrow.ChunkedArray):
        cells = pyarrow.concat_arrays(cells.chunks) if cells.num_chunks else pyarrow.array([])
    if isinstance(cells, pyarrow.ExtensionArray):
        cells = cells.storage
    types = pyarrow.types
    is_list = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    while any(check(cells.type) for check in is_list):
        lengths = np.array([-1 if cell is None else len(cell) for cell in cells.to_pylist()])
        wrong = np.flatnonzero(lengths != 1)
        if len(wrong):
            count = max(lengths[wrong[0]], 0)
            given = f"a list of {count} labels in row {wrong[0]} ({len(wrong)} such rows)"
            fix = (
                "With several labels per row name one column of 0 and 1 per label in data.targets."
            )
            raise InputError(Problem(where, given, "one label in every row", fix))
        cells = cells.flatten()
        feature = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return cells, feature


def _as_integers(cells: Any, where: str) -> Any:
    """Convert floats with integer values to integers; NaN becomes missing."""
    import pyarrow

    values = cells.to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    whole = (values == np.trunc(values)) & (np.abs(values) < 2**53)
    wrong = np.flatnonzero(~missing & ~whole)
    if len(wrong):
        given = f"{values.dtype} ({values[wrong[0]]} in row {wrong[0]})"
        raise InputError(Problem(where, given, "whole numbers from 0, one per class"))
    return pyarrow.array(np.where(missing, 0, values).astype(np.int64), mask=missing)


def _declared(columns: dict[str, _Column]) -> tuple[str, ...] | None:
    """Return the classes that the training split itself declares; None for numbers."""
    train = columns["train"]
    if train.order:
        return train.order
    if train.boolean:
        return train.values
    for labels in columns.values():
        if labels.named and labels.numbers() is None:
            names = sorted({value for one in columns.values() for value in one.values})
            value = labels.values[0]
            fix = f"List the names in data.classes; those found: {_listed(names)}"
            given = f"names ({value!r} in row {labels.rows_of(value)[0]})"
            raise InputError(Problem(labels.where, given, "whole numbers from 0", fix))
    return None


def _map_by_name(
    labels: _Column, names: tuple[str, ...] | None, *, stated: bool
) -> NDArray[np.int64] | None:
    """Map each value to a class by its name; None if numbers are indices instead."""
    if names is None:
        return None
    allowed = f"the classes: {_listed(names)}"
    words = {word: code for code, forms in enumerate((FALSE, TRUE)) for word in forms}
    truth = [words.get(name.casefold()) for name in names]
    if labels.boolean and any(value is not None for value in truth):
        if truth not in ([0, 1], [1, 0]):
            given, fix = "truth values", "Write the labels as names or numbers in the data."
            raise InputError(Problem(labels.where, given, allowed, fix))
        return np.array([truth.index(0), truth.index(1)], dtype=np.int64)
    numbers = labels.numbers() if labels.named else dict.fromkeys(labels.values, 0)
    by_name = (
        numbers is None
        or set(labels.values) <= set(names)
        or not stated
        or all(NUMBER.fullmatch(name) for name in names)
        or (labels.order and sorted(numbers.values()) != list(range(len(numbers))))
    )
    if not by_name:
        return None
    exact = {name: index for index, name in enumerate(names)}
    normalised = _unique_normalised(names)
    # Two of the source's names that differ only in case need an exact match.
    counts = Counter(_normalise(value) for value in labels.order or labels.values)
    table, wrong = [], []
    for value in labels.values:
        index = exact.get(value)
        if index is None and counts[_normalise(value)] == 1:
            index = normalised.get(_normalise(value))
        if index is None:
            wrong.append(value)
        else:
            table.append(index)
    if wrong:
        problems = []
        for value in wrong[:SHOWN]:
            given, fix = _first_row(labels, value), did_you_mean(value, names)
            problems.append(Problem(labels.where, given, allowed, fix))
        raise InputError(*problems)
    return np.array(table, dtype=np.int64)


def _unique_normalised(names: Sequence[str]) -> dict[str, int]:
    plain = [_normalise(name) for name in names]
    counts = Counter(plain)
    return {name: index for index, name in enumerate(plain) if counts[name] == 1}


def _normalise(name: str) -> str:
    """Normalise a name: case, spaces and underscores are ignored."""
    text = unicodedata.normalize("NFC", name).casefold()
    return " ".join(re.sub(r"(?<=\w)-(?=\w)|_", " ", text).split())


def _map_by_number(labels: _Column, count: int | None) -> NDArray[np.int64]:
    """Map numbers to class indices; raise an error for those out of range."""
    numbers = labels.numbers()
    if numbers is None:
        numbers = {value: code for code, value in enumerate(labels.values)}
    limit = np.iinfo(np.int64).max if count is None else count
    wrong = [value for value in labels.values if not 0 <= numbers[value] < limit]
    if wrong:
        allowed = f"0 to {count - 1}, one per class" if count else "whole numbers from 0"
        given = _first_row(labels, wrong[0])
        fix = "-1 marks rows without a label: choose a split with labels." if "-1" in wrong else ""
        raise InputError(Problem(labels.where, given, allowed, fix))
    return np.array([numbers[value] for value in labels.values], dtype=np.int64)


def _first_row(labels: _Column, value: str) -> str:
    rows = labels.rows_of(value)
    shown = value if NUMBER.fullmatch(value) else repr(value)
    return f"{shown} in row {rows[0]} ({len(rows)} such rows)"


def _mapping_notes(
    split: str, labels: _Column, table: NDArray[np.int64], names: tuple[str, ...] | None
) -> list[str]:
    """Return notes on labels mapped by name: another order or spelling than the classes'."""
    if names is None or not labels.named:
        return []
    notes = []
    if labels.order:
        known = _unique_normalised(names)
        known.update({_normalise(v): int(i) for v, i in zip(labels.values, table, strict=True)})
        plain = [_normalise(name) for name in labels.order]
        indices = [known[name] for name in plain if name in known]
        if indices != sorted(indices):
            shown = _listed(labels.order)
            notes.append(f"{split}: labels mapped by name; the source's order is {shown}")
    renamed = {v: names[i] for v, i in zip(labels.values, table, strict=True) if names[i] != v}
    if renamed:
        shown = _listed([f"{value} is {name}" for value, name in renamed.items()])
        notes.append(f"{split}: classes named differently in the source: {shown}")
    return notes


def _mixed_kinds(
    columns: dict[str, _Column], positional: list[str], names: tuple[str, ...] | None
) -> list[Problem]:
    """Return problems for bare numbers in one split and names in another without a common order."""
    bare = [split for split in positional if not columns[split].boolean]
    by_name = [split for split in columns if split not in positional]
    if not bare or not by_name or any(columns[split].order == names for split in by_name):
        return []
    fix = "Use the names, or the numbers, in every split."
    given = f"numbers in {', '.join(bare)}, names in {', '.join(by_name)}"
    return [Problem("data (labels)", given, "labels of one kind in all splits", fix)]


def _unseen_classes(
    rows: dict[str, NDArray[np.int64]], names: tuple[str, ...] | None
) -> list[Problem]:
    seen = set(np.unique(rows["train"]).tolist())
    problems = []
    # A label may be anything up to 2**63: gaps are counted only as far as they are shown.
    gaps = list(islice((number for number in range(max(seen)) if number not in seen), 10))
    if gaps and names is None:
        given = f"labels up to {max(seen)} without {', '.join(map(str, gaps))}"
        fix = "Renumber them, or list every class in data.classes."
        problems.append(Problem("data (labels of train)", given, "0 to n - 1 without gaps", fix))
    for split, values in rows.items():
        new = sorted(set(values.tolist()) - seen)
        if new:
            shown = _listed([names[number] if names else str(number) for number in new])
            given = f"classes {shown}, which train lacks"
            allowed = f"the {len(seen)} classes that train has"
            problems.append(Problem(f"data (labels of {split})", given, allowed))
    return problems


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
