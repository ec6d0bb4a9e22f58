"""Feature encoding of table columns: standardisation and one-hot encoding."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from limbeck.data.columns import Column, Kind, canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGITS = 12
"""Further digits of a mean depend on the order of the processor's additions."""


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


def measure_values(name: str, column: Column) -> Categorical | None:
    """Return the values of the training rows; None if they have only one."""
    return Categorical(name, column.values, column.kind) if len(column.values) > 1 else None
