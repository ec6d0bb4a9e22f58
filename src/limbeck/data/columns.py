"""Table columns: read as numbers or categorical values, and encoded as features.

Numbers are standardised, and categorical values are one-hot encoded.
"""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray

LONGEST_NUMBER = 40
LARGEST = 1e100
"""The sum of the squares of larger numbers could overflow a double."""

MISSING = ""
"""The name of a missing value; an empty text is missing."""

DIGITS = 12
"""Further digits of a mean depend on the order of the processor's additions."""

Kind = Literal["text", "number", "boolean", "date"]
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
NO_NUMBER = frozenset(("", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"))
"""Texts that mean a missing number."""

CONVERSIONS = {
    "true and false, read as 1 and 0": re.compile(r"true|false", re.IGNORECASE),
    "leading zeros, which are lost": re.compile(r"[+-]?0[0-9].*"),
    "words, read as missing": re.compile("|".join(filter(None, NO_NUMBER)), re.IGNORECASE),
}
"""What changes when a text is read as a number."""


@dataclass(frozen=True)
class Column:
    """A categorical column.

    Attributes:
        values: The distinct values as names, sorted.
        codes: The index of each row's value in `values`, int64 `[rows]`.
        kind: The type of the values before conversion to names.
    """

    values: tuple[str, ...]
    codes: NDArray[np.int64]
    kind: Kind = "text"

    def take(self, rows: NDArray[np.int64]) -> Column:
        """Return some rows, with only the values that occur in them.

        Example:
            >>> Column(("a", "b", "c"), np.array([2, 0, 2, 1])).take(np.array([0, 1])).values
            ('a', 'c')
        """
        kept, codes = np.unique(self.codes[rows], return_inverse=True)
        return Column(tuple(self.values[code] for code in kept), codes, self.kind)

    def names(self) -> NDArray[np.str_]:
        """Return the name of each row's value, `[rows]`."""
        return np.array(self.values or (MISSING,), dtype=np.str_)[self.codes]


def number(value: object) -> float:
    """Convert a cell to a number, NaN if it is missing; a text is parsed as a number.

    Raises:
        ValueError: The cell is not a number, infinite, or beyond 1e100.

    Example:
        >>> number(3), number(None), number(True), number(" 1.5e3"), number("NA")
        (3.0, nan, 1.0, 1500.0, nan)
    """
    if value is None:
        return math.nan
    if isinstance(value, str):
        text = value.strip().casefold()
        if text in NO_NUMBER:
            return math.nan
        if text in {"true", "false"}:
            return float(text == "true")
        if not DECIMAL.fullmatch(text):
            raise ValueError(f"{value!r} is not a number")
    if isinstance(value, bytes):
        raise ValueError(f"{value!r} is not a number")
    parsed = float(value)  # type: ignore[arg-type]
    if abs(parsed) > LARGEST:
        raise ValueError(f"{value!r} is not a number in the range of 1e100")
    return parsed


def python_value(value: object) -> object:
    """Convert a NumPy scalar to the Python value that a file's cell would have.

    Example:
        >>> python_value(np.float32(2)), python_value(np.datetime64("2024-01-01T00", "ns"))
        (2.0, datetime.datetime(2024, 1, 1, 0, 0))
    """
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[us]").item()  # one in nanoseconds becomes an integer
    return value.item() if isinstance(value, np.generic) else value


def kind_of(value: object) -> Kind:
    """Return the type of a cell's value.

    Example:
        >>> kind_of("1"), kind_of(1), kind_of(True), kind_of(datetime.date(2024, 1, 1))
        ('text', 'number', 'boolean', 'date')
    """
    if isinstance(value, bool | np.bool_):
        return "boolean"
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return "date"
    return "text" if isinstance(value, str) or value is None else "number"


def canonical(name: str) -> tuple[str, object]:
    """Return the value that a name represents, independent of the stored type.

    Example:
        >>> canonical("01") == canonical("1.0"), canonical("true") == canonical("True")
        (True, True)
        >>> canonical("2024-01-01") == canonical("2024-01-01 00:00:00")
        True
    """
    plain = name.strip()
    if plain.isascii() and plain.lstrip("+-").isdigit() and len(plain) < LONGEST_NUMBER:
        return "number", int(plain)
    if DECIMAL.fullmatch(plain):
        return "number", float(plain)
    if plain.casefold() in {"true", "false"}:
        return "boolean", plain.casefold()
    try:
        return "date", datetime.datetime.fromisoformat(plain).isoformat()
    except ValueError:
        return "text", name


def name_of(value: object) -> str:
    """Return the name of a cell's value; whole numbers have no decimal point, whatever their type.

    A timestamp without a time of day is named as a date.

    Raises:
        ValueError: The value is a list, bytes or another unsupported type.

    Example:
        >>> name_of(2.0), name_of("x"), name_of(None), name_of(True)
        ('2', 'x', '', 'True')
    """
    if isinstance(value, bytes | list | dict | tuple | set | np.ndarray):
        raise ValueError(f"a {type(value).__name__} has no name")
    if value is None or value != value:
        return MISSING
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.timetz() == datetime.time():
        return str(value.date())
    return str(value)


def read_numbers(
    dataset: datasets.Dataset, column: str, *, where: str, fix: str = ""
) -> NDArray[np.float64]:
    """Read a numeric column, float64 `[rows]`; a missing value is NaN.

    Args:
        dataset: The rows.
        column: The column.
        where: The place in the recipe, for messages.
        fix: What a message on texts adds.

    Raises:
        InputError: Cells hold no finite number; the message has their number and the first.
    """
    import pyarrow  # type: ignore[import-untyped]

    cells = _cells(dataset, column)
    kind = pyarrow.types
    if _is_text(cells.type):
        # Parsed once per distinct value: a column of a million rows often has few.
        encoded = cells.combine_chunks().dictionary_encode()
        texts = [*encoded.dictionary.to_pylist(), None]
        if not all(map(_is_number, texts)):
            raise InputError(_no_number(cells.to_pylist(), where, fix))
        codes = encoded.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)
        values = np.array([number(text) for text in texts])[codes]
    else:
        checks = (kind.is_integer, kind.is_floating, kind.is_boolean, kind.is_null, kind.is_decimal)
        if not any(check(cells.type) for check in checks):
            raise InputError(_no_number(cells.to_pylist(), where, fix))
        if kind.is_boolean(cells.type):
            cells = cells.cast("int8")
        values = np.asarray(cells.cast("float64", safe=False).to_numpy(), dtype=np.float64)
    wrong = np.flatnonzero(np.abs(values) > LARGEST)
    if len(wrong):
        given = f"{values[wrong[0]]} in row {wrong[0]} ({len(wrong)} such rows)"
        raise InputError(Problem(where, given, "finite numbers, up to 1e100 in size"))
    return values


def conversions(dataset: datasets.Dataset, column: str) -> dict[str, str]:
    """Return what changes when a column is read as numbers, each with the first such value.

    Example:
        >>> import datasets
        >>> conversions(datasets.Dataset.from_dict({"zip": ["7", "0123"]}), "zip")
        {'leading zeros, which are lost': '0123'}
    """
    cells = _cells(dataset, column)
    if not (_is_text(cells.type) or str(cells.type) == "bool"):
        return {}
    texts = [text.strip() for text in cells.unique().cast("string").to_pylist() if text]
    first = {
        change: next(filter(pattern.fullmatch, texts), None)
        for change, pattern in CONVERSIONS.items()
    }
    return {change: text for change, text in first.items() if text is not None}


def _is_text(kind: Any) -> bool:
    return str(kind) in {"string", "large_string"}


def _no_number(cells: list[object], where: str, fix: str) -> Problem:
    rows = [row for row, cell in enumerate(cells) if not _is_number(cell)]
    shown = f"{cells[rows[0]]!r} in row {rows[0]} ({len(rows)} such rows)" if rows else "texts"
    return Problem(where, shown, "a number, or nothing, in every row", fix)


def _is_number(cell: object) -> bool:
    try:
        number(cell)
    except (TypeError, ValueError):
        return False
    return True


def read_names(dataset: datasets.Dataset, column: str, *, where: str) -> Column:
    """Read a categorical column by names; a class label is read as its name.

    Raises:
        InputError: The cells hold an unsupported type, such as lists.
    """
    cells = _cells(dataset, column)
    declared = getattr(dataset.features[column], "names", None)
    # Named once per distinct value: a column of a million rows has few.
    try:
        encoded = cells.combine_chunks().dictionary_encode()
        raw = [*encoded.dictionary.to_pylist(), None]
        if declared is None:
            names = [name_of(value) for value in raw]
        else:
            names = [MISSING if value is None or value < 0 else declared[value] for value in raw]
    except (NotImplementedError, ValueError) as error:
        allowed = "texts, numbers or dates"
        raise InputError(Problem(where, f"cells of {cells.type}", allowed)) from error
    codes = encoded.indices.fill_null(len(raw) - 1).to_numpy(zero_copy_only=False)
    values, ranks = np.unique(np.array(names, dtype=object), return_inverse=True)
    kinds = {kind_of(value) for value in raw if value is not None}
    kind = kinds.pop() if len(kinds) == 1 and declared is None else "text"
    return Column(tuple(values.tolist()), ranks[codes], kind).take(np.arange(len(codes)))


def _cells(dataset: datasets.Dataset, column: str) -> Any:
    return dataset.select_columns([column]).with_format("arrow")[:].column(column)


@dataclass(frozen=True)
class Numeric:
    """A numeric column and its standardisation `(number - mean) / std`, 0 where it is missing.

    Attributes:
        name: The column's name.
        mean: The mean, subtracted.
        std: The standard deviation, the divisor.
        flag: Whether a second feature is 1 where the number is missing, else 0.
    """

    name: str
    mean: float
    std: float
    flag: bool

    @property
    def width(self) -> int:
        """Return the number of features."""
        return 1 + self.flag

    def features(self, numbers: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Standardise numbers `[rows]`, NaN where they are missing; return one array per feature.

        Example:
            >>> Numeric("age", 40.0, 10.0, True).features(np.array([50.0, np.nan]))
            [array([1., 0.]), array([0., 1.])]
        """
        missing = np.isnan(numbers)
        scaled = np.where(missing, 0.0, (numbers - self.mean) / self.std)
        return [scaled, missing.astype(np.float64)] if self.flag else [scaled]


@dataclass(frozen=True)
class Categorical:
    """A categorical column: one feature per value, and a last one for any other value.

    Attributes:
        name: The column's name.
        values: The names of the values in the training rows, sorted; "" is a missing value.
        kind: The type of the values in the training rows.
    """

    name: str
    values: tuple[str, ...]
    kind: Kind = "text"

    @property
    def width(self) -> int:
        """Return the number of features."""
        return len(self.values) + 1

    def places(self, column: Column) -> NDArray[np.int64]:
        """Return the index of the feature that is 1, `[rows]`; the others are 0.

        Example:
            >>> Categorical("sex", ("f", "m")).places(Column(("m", "x"), np.array([1, 0, 1])))
            array([2, 1, 2])
        """
        places = [self.place(value, column.kind) for value in column.values]
        return np.array(places, dtype=np.int64)[column.codes]

    def place(self, name: str, kind: Kind) -> int:
        """Return the index of the feature that is 1 for a value, given by its name and type.

        A value of another type than in training is compared by the value that the names represent:
        the number 1234 matches the text "01234", if no other text does.

        Example:
            >>> codes = Categorical("code", ("01234", "7"))
            >>> codes.place("1234", "number"), codes.place("1234", "text")
            (0, 2)
        """
        by_name, by_value = self._indices
        index = by_name.get(name)
        if index is None and kind != self.kind:
            index = by_value.get(canonical(name))
        return len(self.values) if index is None else index

    @cached_property
    def _indices(self) -> tuple[dict[str, int], dict[tuple[str, object], int]]:
        by_name = {value: index for index, value in enumerate(self.values)}
        meanings = [canonical(value) for value in self.values]
        counts = Counter(meanings)
        by_value = {one: index for index, one in enumerate(meanings) if counts[one] == 1}
        return by_name, by_value


def measure_numbers(name: str, numbers: NDArray[np.float64]) -> Numeric | None:
    r"""Compute mean and standard deviation over the training rows that have a number.

    $$\mu = \frac{1}{n} \sum_i x_i, \quad \sigma = \sqrt{\frac{1}{n} \sum_i (x_i - \mu)^2}$$

    Returns:
        None if all rows are equal: such a column carries no information.

    Example:
        >>> measure_numbers("age", np.array([30.0, 50.0, np.nan]))
        Numeric(name='age', mean=40.0, std=10.0, flag=True)
    """
    known = numbers[~np.isnan(numbers)]
    flag = len(known) < len(numbers)
    if not len(known) or (known.min() == known.max() and not flag):
        return None
    # A constant column with missing values has standard deviation 0, which cannot be a divisor.
    mean, std = (float(f"{value:.{DIGITS}g}") for value in (known.mean(), known.std()))
    return Numeric(name, mean, std or 1.0, flag)
