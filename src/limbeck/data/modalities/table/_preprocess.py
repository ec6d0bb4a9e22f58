"""Preprocessing of table rows to features, and what preprocess.json states about it.

For each numeric column `(number - mean) / std`, 0 if it is missing, and with `flag` 1 if it is
missing; then for each categorical column a one-hot encoding of its value in `values`, with one more
feature for any other value. `kind` is the type of the values in training; a whole number has no
decimal point. Numbers are computed in float64, features are float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from limbeck.core.numbers import is_number, is_positive
from limbeck.data.columns import (
    Categorical,
    Column,
    Numeric,
    kind_of,
    name_of,
    number,
    python_value,
)
from limbeck.data.preprocess import (
    Comparison,
    Named,
    Preprocess,
    Target,
    parse_record,
    require_columns,
)
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Columns whose mean is shifted by more standard deviations are scaled unlike in training.
MOVED = 0.05
SHOWN = 12


@dataclass(frozen=True)
class TablePreprocess(Preprocess):
    """Table preprocessing: from a table row to features.

    Attributes:
        numeric: The numeric columns, in the order of their features.
        categorical: The categorical columns, whose features come after all numeric ones.
        classes: The class names, in the order of the model's outputs.
        targets: A regression's targets, in the order of the model's outputs.
    """

    numeric: tuple[Numeric, ...]
    categorical: tuple[Categorical, ...]
    kind: Literal["table"] = "table"
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of all columns."""
        return (*(one.name for one in self.numeric), *(one.name for one in self.categorical))

    @property
    def width(self) -> int:
        """Return the number of features."""
        return sum(one.width for one in self.numeric) + sum(one.width for one in self.categorical)

    def model_inputs(self) -> dict[str, int]:
        """Return the input dimensions of a model, as arguments for `limbeck.models.build.build`."""
        return {"table_features": self.width}

    def numbers(
        self, columns: Mapping[str, NDArray[np.float64]], *, rows: int
    ) -> NDArray[np.float32]:
        """Standardise the numeric columns, `[rows]` each, NaN where a number is missing.

        Returns:
            The first features, float32 `[rows, numbers and flags]`.
        """
        parts = [part for one in self.numeric for part in one.features(columns[one.name])]
        stacked: NDArray[np.float64] = np.vstack([np.empty((0, rows)), *parts])
        return np.ascontiguousarray(stacked.T, dtype=np.float32)

    def places(self, columns: Mapping[str, Column], *, rows: int) -> NDArray[np.int64]:
        """Return the one-hot indices of the categorical columns: int64 `[rows, columns]`."""
        return self._shifted([one.places(columns[one.name]) for one in self.categorical], rows)

    def _shifted(self, places: list[NDArray[np.int64]], rows: int) -> NDArray[np.int64]:
        """Offset each column's indices to indices among all features."""
        start = sum(one.width for one in self.numeric)
        shifted = np.empty((rows, len(places)), dtype=np.int64)
        for column, one in enumerate(self.categorical):
            shifted[:, column] = start + places[column]
            start += one.width
        return shifted

    def features(
        self, numbers: NDArray[np.float32], places: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Concatenate the results of `numbers` and `places`: float32 `[n, width]`."""
        features = np.zeros((len(numbers), self.width), dtype=np.float32)
        features[:, : numbers.shape[1]] = numbers
        features[np.arange(len(places))[:, None], places] = 1.0
        return features

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float32]]:
        """Convert table rows to model inputs: `{"features": [n, width]}`; None is missing.

        Cells may be texts, as a CSV reader returns, or typed: both result in the features of
        training.

        Raises:
            ValueError: A cell of a numeric column is not a number.

        Example:
            >>> age, sex = Numeric("age", 40.0, 10.0, False), Categorical("sex", ("f", "m"))
            >>> prepare = TablePreprocess((age,), (sex,))
            >>> prepare([{"age": 50, "sex": "m"}])["features"].tolist()
            [[1.0, 0.0, 1.0, 0.0]]
        """
        numbers, places = {}, []
        for one in self.numeric:
            numbers[one.name] = np.array([number(row[one.name]) for row in rows])
        for column in self.categorical:
            cells = [python_value(row[column.name]) for row in rows]
            found = [column.place(name_of(cell), kind_of(cell)) for cell in cells]
            places.append(np.array(found, np.int64))
        standardised = self.numbers(numbers, rows=len(rows))
        return {"features": self.features(standardised, self._shifted(places, len(rows)))}

    def read(self, row: object, *, where: str) -> Mapping[str, Any]:
        """Return a table row; raise if a column is missing, or a cell has no valid value.

        Raises:
            InputError: A column is missing, or a cell is no number; lists every problem.

        Example:
            >>> prepare = TablePreprocess((Numeric("age", 40.0, 10.0, False),), ())
            >>> prepare.read({"agee": 50}, where="row 0")
            Traceback (most recent call last):
            ...
            limbeck.errors.InputError: row 0: ... allowed: the columns age. did you mean "agee"?
        """
        if not isinstance(row, Mapping):
            allowed = f"a mapping (a JSON object) with the columns {', '.join(self.columns)}"
            raise InputError(Problem(where, row, allowed))
        require_columns(row, self.columns, where=where)
        problems = []
        for name in self.columns:
            is_number = any(name == one.name for one in self.numeric)
            try:
                (number if is_number else name_of)(row[name])
            except Exception:  # a cell may be any object
                allowed = "a number" if is_number else "a text, a number, a boolean, a date"
                allowed += ", or None if it is missing"
                problems.append(Problem(f"{where}, {name}", row[name], allowed))
        if problems:
            raise InputError(*problems)
        return row

    def save(self, folder: Path) -> list[Path]:
        """Write preprocess.json; return the paths written."""
        return [self._write(folder, width=self.width)]

    def named(self, argument: str, *, row_files: Sequence[str]) -> list[Named]:
        """Return the row of a JSON object."""
        if argument.lstrip().startswith("{"):
            return [("row", parse_record(argument))]
        endings = ", ".join(end for end in row_files if end != ".txt")
        allowed = f"a row as a JSON object, a file that ends in {endings}, or - for standard input"
        raise InputError(Problem("INPUTS", argument, allowed))

    def of_line(self, line: str) -> Any:
        """Return the row of a line, a JSON object."""
        return parse_record(line)

    def compare(self, comparison: Comparison) -> None:
        """Compare the columns with those of a trained model's preprocess.json."""
        content = comparison.found.preprocess
        if content is None:
            return
        allowed = f"as {comparison.where} was trained ({comparison.found.origin})"
        own, target = list(_described(content)), list(_described(asdict(self)))
        names = [[str(one.get("name")) for one in columns] for columns in (own, target)]
        if names[0] != names[1]:
            comparison.refuse("data.table", _list(names[1]), f"{_list(names[0])}, {allowed}")
            return
        for trained, column in zip(own, target, strict=True):
            for key in ("values", "flag"):
                expected, value = _plain(trained.get(key)), _plain(column.get(key))
                if expected != value:
                    given = f"{column['name']} with {key} {value}"
                    comparison.refuse("data.table", given, f"{expected}, {allowed}")
            if "mean" in column and _moved(trained, column):
                mean, std = f"{column['mean']:.4g}", f"{column['std']:.4g}"
                given = f"{column['name']} with mean {mean} and std {std}"
                expected = f"mean {trained.get('mean')} and std {trained.get('std')}, {allowed}"
                comparison.refuse("data.table", given, expected)


def _described(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for part in ("numeric", "categorical"):
        columns = content.get(part)
        if isinstance(columns, list | tuple):
            yield from (one for one in columns if isinstance(one, Mapping))


def _moved(own: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    mean, std = own.get("mean"), own.get("std")
    if not is_number(mean) or not is_positive(std):
        return True
    return abs(mean - data["mean"]) / std > MOVED or abs(data["std"] / std - 1) > MOVED


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _list(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return "[" + ", ".join(names[:SHOWN]) + more + "]"
