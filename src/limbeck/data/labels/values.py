"""Numeric targets: regression with one column or several, or independent labels of 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from limbeck.data.columns import read_numbers
from limbeck.data.label import LabelKind, Labels, Loadable
from limbeck.data.preprocess import Target
from limbeck.data.settings import Settings, duplicates
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray

    from limbeck.data.preprocess import Preprocess
    from limbeck.data.rows import RowLabels, Samples
    from limbeck.data.spec import DataSpec

BINS = 10
"""Splits are stratified by this many bins of equal size of the first target."""


class ValueKeys(Settings):
    """The keys of numeric targets.

    Attributes:
        targets: Numeric target columns, for regression; the label column is then not used.
    """

    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class ValueLabels(Labels):
    """Numeric targets of the source's splits; strata are bins of the first target.

    Attributes:
        values: The targets, float32 `[rows, targets]`, by split.
        names: The names of the targets.
    """

    values: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def of(
        self, source: str, rows: NDArray[np.int64], samples: Samples, prepare: Preprocess
    ) -> RowLabels:
        """Return the targets of some rows."""
        import torch

        from limbeck.data.rows import DenseLabels

        strata = torch.from_numpy(self.rows[source][rows])
        return DenseLabels(torch.from_numpy(self.values[source][rows]), strata)

    def targets(self, train: RowLabels) -> tuple[Target, ...]:
        """Compute mean and standard deviation of each target over the training rows."""
        rows = train.tensor.numpy().astype(np.float64)
        return tuple(
            Target(
                column,
                mean=float(rows[:, place].mean()),
                std=float(rows[:, place].std()),
                binary=bool(np.isin(rows[:, place], (0, 1)).all()),
            )
            for place, column in enumerate(self.names)
        )


class Values(LabelKind[ValueKeys]):
    """Numeric targets, one column each."""

    name: ClassVar[str] = "values"
    keys: ClassVar[type[Settings]] = ValueKeys

    def check(self, spec: DataSpec) -> None:
        """Check that each column is named once."""
        if repeated := duplicates(self.of(spec).targets):
            raise ValueError(f"targets names {repeated} twice; allowed: each once")

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the target columns."""
        return dict.fromkeys(self.of(spec).targets, "data.targets")

    def read(self, spec: DataSpec, loaded: Loadable) -> Labels:
        """Read the targets of all splits."""
        return read_values(loaded.splits, self.of(spec).targets)


kind = Values()


def read_values(splits: dict[str, datasets.Dataset], columns: tuple[str, ...]) -> ValueLabels:
    """Read the numeric targets of all splits, float32 `[rows, targets]`.

    Raises:
        InputError: A cell has no finite number, or a target is constant over the training rows; the
            message lists every problem.
    """
    problems: list[Problem] = []
    values = {}
    for split, dataset in splits.items():
        read = []
        for column in columns:
            where = f"data.targets ({column!r} in {split})"
            with gathering(problems):
                read.append(read_numbers(dataset, column, where=where))
                missing = np.flatnonzero(np.isnan(read[-1]))
                if len(missing):
                    given = f"no number in {len(missing)} rows, the first is row {missing[0]}"
                    raise InputError(Problem(where, given, "a number in every row"))
        if len(read) == len(columns):
            values[split] = np.stack(read, axis=1).astype(np.float32)
    if problems:
        raise InputError(*problems)
    constant = [
        Problem(
            f"data.targets ({column!r} in train)",
            f"{values['train'][0, place]} in every row",
            "numbers that differ",
        )
        for place, column in enumerate(columns)
        if np.ptp(values["train"][:, place]) == 0
    ]
    if constant:
        raise InputError(*constant)
    edges = np.quantile(values["train"][:, 0], np.linspace(0, 1, BINS + 1)[1:-1])
    bins = {
        split: np.searchsorted(edges, one[:, 0]).astype(np.int64) for split, one in values.items()
    }
    by = f"deciles of {columns[0]}"
    return ValueLabels(bins, (), by=by, values=values, names=columns)
