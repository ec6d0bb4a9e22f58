"""From the columns of a table to features: numbers standardised, values one-hot."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from limbeck.data.columns import Kind, Named, canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGITS = 12
"""Beyond these, what a mean is depends on the order in which a processor adds."""


@dataclass(frozen=True)
class Numeric:
    """A column of numbers, and what to do with it: `(number - mean) / std`, 0 where it is missing.

    Attributes:
        name: The column.
        mean: What is subtracted.
        std: What is then divided by.
        flag: Whether a second feature says that the number is missing: 1, else 0.
    """

    name: str
    mean: float
    std: float
    flag: bool

    @property
    def width(self) -> int:
        """How many features it becomes."""
        return 1 + self.flag

    def features(self, numbers: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Standardise numbers `[rows]`, NaN where they are missing; give a feature an array.

        Example:
            >>> Numeric("age", 40.0, 10.0, True).features(np.array([50.0, np.nan]))
            [array([1., 0.]), array([0., 1.])]
        """
        missing = np.isnan(numbers)
        scaled = np.where(missing, 0.0, (numbers - self.mean) / self.std)
        return [scaled, missing.astype(np.float64)] if self.flag else [scaled]


@dataclass(frozen=True)
class Categorical:
    """A column of values: a feature a value, and a last one for any other value.

    Attributes:
        name: The column.
        values: The names of the values that the training rows have, sorted; "" is a missing one.
        kind: The type that the training rows had them in.
    """

    name: str
    values: tuple[str, ...]
    kind: Kind = "text"

    @property
    def width(self) -> int:
        """How many features it becomes."""
        return len(self.values) + 1

    def places(self, column: Named) -> NDArray[np.int64]:
        """Say which of the features is 1, `[rows]`; the others are 0.

        Example:
            >>> Categorical("sex", ("f", "m")).places(Named(("m", "x"), np.array([1, 0, 1])))
            array([2, 1, 2])
        """
        places = [self.place(value, column.kind) for value in column.values]
        return np.array(places, dtype=np.int64)[column.codes]

    def place(self, name: str, kind: Kind) -> int:
        """Return which of the features is 1 for a value, given by its name and type.

        A value that comes in another type than in training is held against what the names stand
        for: the number 1234 is the text "01234", if no other text spells it.

        Example:
            >>> codes = Categorical("code", ("01234", "7"))
            >>> codes.place("1234", "number"), codes.place("1234", "text")
            (0, 2)
        """
        exact, meant = self._known
        found = exact.get(name)
        if found is None and kind != self.kind:
            found = meant.get(canonical(name))
        return len(self.values) if found is None else found

    @cached_property
    def _known(self) -> tuple[dict[str, int], dict[tuple[str, object], int]]:
        forms = [canonical(value) for value in self.values]
        count = Counter(forms)
        exact = {value: place for place, value in enumerate(self.values)}
        meant = {form: place for place, form in enumerate(forms) if count[form] == 1}
        return exact, meant


def measure_numbers(name: str, numbers: NDArray[np.float64]) -> Numeric | None:
    r"""Measure mean and deviation over the training rows that have a number.

    $$\mu = \frac{1}{n} \sum_i x_i, \quad \sigma = \sqrt{\frac{1}{n} \sum_i (x_i - \mu)^2}$$

    Returns:
        None if all rows are alike: such a column tells no two samples apart.

    Example:
        >>> measure_numbers("age", np.array([30.0, 50.0, np.nan]))
        Numeric(name='age', mean=40.0, std=10.0, flag=True)
    """
    known = numbers[~np.isnan(numbers)]
    flag = len(known) < len(numbers)
    if not len(known) or (known.min() == known.max() and not flag):
        return None
    # One and the same number has no deviation, which nothing could be divided by.
    return Numeric(name, _rounded(known.mean()), _rounded(known.std()) or 1.0, flag)


def measure_values(name: str, column: Named) -> Categorical | None:
    """List the values of the training rows; None if they have only one."""
    return Categorical(name, column.values, column.kind) if len(column.values) > 1 else None


def _rounded(value: np.floating) -> float:
    return float(f"{value:.{DIGITS}g}")
