"""Time series: windows of past steps, whose labels are the next steps of the targets.

`preprocess.json` states the columns with mean and standard deviation, the window, the horizon and
the quantiles. An input is the last `window` rows of all columns, in order: `(value - mean) / std`,
0 where a value is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from limbeck.core import fingerprint
from limbeck.data.columns import number, read_numbers
from limbeck.data.label import Labels
from limbeck.data.modality import Modality, Usage
from limbeck.data.preprocess import (
    Divisor,
    Named,
    Preprocess,
    Target,
    parse_record,
    require_columns,
)
from limbeck.data.settings import Section, Settings, SplitName, duplicates
from limbeck.errors import InputError, Problem, RefusedError, gathering

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.loaded import Loaded
    from limbeck.data.modality import Rows
    from limbeck.data.rows import Batch, RowLabels, Samples
    from limbeck.data.spec import DataSpec
    from limbeck.data.split import Division, Prepared

MOST_STEPS = 100_000
ORDER: tuple[SplitName, ...] = ("train", "validation", "test")
Steps = Annotated[int, Field(gt=0, le=MOST_STEPS)]
Level = Annotated[float, Field(gt=0, lt=1)]

CODE = """
with open("series.json") as file:
    rows = json.load(file)  # the last rows, oldest first: [{"load": 3.1, "temperature": 20.5}, ...]
series = np.zeros((1, prepare["window"], len(prepare["series"])), dtype=np.float32)
for place, column in enumerate(prepare["series"]):
    for step, row in enumerate(rows[-prepare["window"]:]):
        if row[column["name"]] is not None:
            series[0, step, place] = (row[column["name"]] - column["mean"]) / column["std"]
"""


class SeriesSpec(Section):
    """Settings of time series.

    Rows are in order of time. The last rows are the test, the ones before them the validation, by
    the shares `data.test` and `data.validation`; a window may reach back into the rows before its
    split, its labels never.

    Attributes:
        columns: The numeric columns that the model reads.
        targets: The columns that are predicted; default: all.
        window: The number of past steps that the model reads.
        horizon: The number of next steps that are predicted.
        quantiles: The levels of the predicted quantiles, ascending.
        stride: The number of rows from one training window to the next.
    """

    columns: tuple[str, ...]
    targets: tuple[str, ...] = ()
    window: Steps
    horizon: Steps
    quantiles: tuple[Level, ...] = (0.1, 0.5, 0.9)
    stride: Steps = 1

    @field_validator("quantiles")
    @classmethod
    def _ascending(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if not levels or list(levels) != sorted(set(levels)):
            raise ValueError("allowed: at least one level, ascending")
        return levels

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        for name in ("columns", "targets"):
            if repeated := duplicates(getattr(self, name)):
                raise ValueError(f"{name} names {repeated} twice; allowed: each once")
        if not self.columns:
            raise ValueError("columns is empty; allowed: at least one numeric column")
        return self

    @property
    def predicted(self) -> tuple[str, ...]:
        """Return the columns that are predicted."""
        return self.targets or self.columns


class SeriesKeys(Settings):
    """The keys of time series.

    Attributes:
        series: The columns and windows; if given, the rows are a time series.
    """

    series: SeriesSpec | None = None


@dataclass(frozen=True)
class Channel:
    """A column of a series, with its mean and standard deviation over the training rows."""

    name: str
    mean: float
    std: Divisor

    def standardise(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Standardise values; a missing one is the mean, 0."""
        scaled = np.nan_to_num((values - self.mean) / self.std, nan=0.0)
        return scaled.astype(np.float32)


@dataclass(frozen=True)
class SeriesPreprocess(Preprocess):
    """Preprocessing of a series: from its last rows to a standardised window.

    Attributes:
        series: The columns, in order, with their scale.
        window: The number of past steps.
        horizon: The number of predicted steps.
        quantiles: The levels of the predicted quantiles, ascending.
        classes: None.
        targets: The targets, in the order of the model's outputs.
    """

    series: tuple[Channel, ...]
    window: Steps
    horizon: Steps
    quantiles: tuple[float, ...]
    kind: Literal["series"] = "series"
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    sample_axes: ClassVar[tuple[int, ...]] = (2,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns."""
        return tuple(one.name for one in self.series)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of a model's outputs: steps, targets, and quantiles."""
        return tuple(
            f"{target.name}+{step} q{level:g}"
            for step in range(1, self.horizon + 1)
            for target in self.targets
            for level in self.quantiles
        )

    def model_inputs(self) -> dict[str, int]:
        """Return the number of series and of steps."""
        return {"channels": len(self.series), "window": self.window}

    def __call__(self, samples: Sequence[NDArray[np.float64]]) -> dict[str, NDArray[np.float32]]:
        """Convert windows `[window, columns]` to model inputs, `{"series": [n, window, columns]}`.

        Example:
            >>> prepare = SeriesPreprocess((Channel("load", 10.0, 2.0),), 2, 1, (0.5,))
            >>> prepare([np.array([[12.0], [np.nan]])])["series"].tolist()
            [[[1.0], [0.0]]]
        """
        values = np.stack(samples).astype(np.float64)
        scaled = [one.standardise(values[..., place]) for place, one in enumerate(self.series)]
        return {"series": np.stack(scaled, axis=-1)}

    def read(self, value: object, *, where: str) -> NDArray[np.float64]:
        """Return the last rows of a series as an array `[window, columns]`.

        Args:
            value: An array `[steps, columns]`, a mapping of columns to lists, or a list of rows, of
                at least `window` steps, oldest first.
            where: The name of the input in messages.

        Raises:
            InputError: Columns or steps are missing, or a cell is no number.

        Example:
            >>> prepare = SeriesPreprocess((Channel("load", 10.0, 2.0),), 2, 1, (0.5,))
            >>> prepare.read({"load": [9, "10.5", None]}, where="input").tolist()
            [[10.5], [nan]]
        """
        if isinstance(value, np.ndarray) and value.ndim == 2:
            rows: Any = value
            if value.shape[1] != len(self.series):
                allowed = f"[steps, {len(self.series)}]: {', '.join(self.columns)}"
                raise InputError(Problem(where, f"an array {list(value.shape)}", allowed))
        elif isinstance(value, Mapping):
            require_columns(value, self.columns, where=where)
            lengths = {len(value[name]) for name in self.columns}
            if len(lengths) > 1:
                allowed = "as many values in every column"
                raise InputError(Problem(where, f"lengths {sorted(lengths)}", allowed))
            rows = list(zip(*(value[name] for name in self.columns), strict=True))
        elif isinstance(value, Sequence) and all(isinstance(row, Mapping) for row in value):
            for step, row in enumerate(value):
                require_columns(row, self.columns, where=f"{where}, row {step}")
            rows = [[row[name] for name in self.columns] for row in value]
        else:
            allowed = "an array [steps, columns], a mapping of columns to lists, or a list of rows"
            raise InputError(Problem(where, value, allowed))
        if len(rows) < self.window:
            given = f"{len(rows)} steps"
            raise InputError(Problem(where, given, f"at least {self.window}, the model's window"))
        return np.array(
            [self._numbers(row, f"{where}, step {at}") for at, row in enumerate(rows)][
                -self.window :
            ]
        )

    def _numbers(self, row: Sequence[Any], where: str) -> list[float]:
        cells = []
        for name, cell in zip(self.columns, row, strict=True):
            try:
                cells.append(float(number(cell)))
            except ValueError as error:
                problem = Problem(f"{where}, {name}", cell, "a number, or None if it is missing")
                raise InputError(problem) from error
        return cells

    def of_line(self, line: str) -> Any:
        """Return the series of one line of standard input: JSON."""
        return parse_record(line)

    def of_rows(self, rows: Iterator[Named], folder: Path, column: str) -> Iterator[Named]:
        """Return the rows of a file as one series."""
        found = list(rows)
        if found:
            where = found[0][0].rpartition(", row")[0] or found[0][0]
            yield where, [row for _, row in found]


@dataclass(frozen=True)
class WindowLabels(Labels):
    """The next steps of the targets after every window.

    Attributes:
        values: The columns of every split, float64 `[rows, columns]`, NaN where missing.
        settings: The windows.
        trained: The number of rows of the training split that training uses.
    """

    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    settings: SeriesSpec | None = None

    def of(
        self, source: str, rows: NDArray[np.int64], samples: Samples, prepare: Preprocess
    ) -> RowLabels:
        """Return the labels of some windows, `[n, horizon, targets]`."""
        import torch

        from limbeck.data.rows import DenseLabels

        settings = self.settings
        if settings is None:
            raise ValueError("labels of windows without their settings")
        places = [settings.columns.index(name) for name in settings.predicted]
        targets = self.values[source][:, places].astype(np.float32)
        steps = rows[:, None] + settings.window + np.arange(settings.horizon)
        strata = torch.zeros(len(rows), dtype=torch.int64)
        return DenseLabels(torch.from_numpy(targets[steps]), strata)

    def targets(self, train: RowLabels) -> tuple[Target, ...]:
        """Compute mean and standard deviation of each target over the training windows."""
        if self.settings is None:
            return ()
        values = train.tensor.numpy().astype(np.float64)
        return tuple(
            Target(name, float(np.nanmean(one)), max(float(np.nanstd(one)), 1e-12))
            for name, one in zip(self.settings.predicted, np.moveaxis(values, -1, 0), strict=True)
        )


class Series(Modality[SeriesKeys]):
    """Windows of a time series."""

    name: ClassVar[str] = "series"
    keys: ClassVar[type[Settings]] = SeriesKeys
    preprocess: ClassVar[type[Preprocess]] = SeriesPreprocess
    usage: ClassVar[Usage] = Usage(
        argument="series.csv", packages="numpy", code=CODE, inputs=("series",)
    )
    owns_labels: ClassVar[bool] = True
    hint: ClassVar[str] = ""

    def _settings(self, spec: DataSpec) -> SeriesSpec:
        found = self.of(spec).series
        if found is None:
            raise RefusedError(Problem.missing("series", "Name the columns and windows."))
        return found

    def check(self, spec: DataSpec) -> None:
        """Refuse a target that is not among the columns."""
        settings = self._settings(spec)
        for name in settings.targets:
            if name not in settings.columns:
                allowed = f"columns of the series: {', '.join(settings.columns)}"
                raise RefusedError(Problem("series.targets", name, allowed))

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the columns of the series."""
        return dict.fromkeys(self._settings(spec).columns, "data.series.columns")

    def labels(self, spec: DataSpec, loaded: Loaded) -> Labels:
        """Read the columns of all splits; a label is the next steps after a window.

        Raises:
            InputError: A cell is no number, or a split is shorter than a window and its horizon.
        """
        settings, problems = self._settings(spec), list[Problem]()
        values, windows = {}, {}
        length = settings.window + settings.horizon
        for split, dataset in loaded.splits.items():
            read = []
            for column in settings.columns:
                where = f"data.series.columns ({column!r} in {split})"
                with gathering(problems):
                    read.append(read_numbers(dataset, column, where=where))
            if len(dataset) < length:
                given, allowed = f"{len(dataset)} rows", f"at least {length}: window and horizon"
                problems.append(Problem(f"data ({split})", given, allowed))
            elif len(read) == len(settings.columns):
                values[split] = np.stack(read, axis=1).astype(np.float64)
                windows[split] = np.zeros(len(dataset) - length + 1, dtype=np.int64)
        if problems:
            raise InputError(*problems)
        return WindowLabels(windows, (), by="time", values=values, settings=settings)

    def divide(
        self, spec: DataSpec, loaded: Loaded, labels: Labels
    ) -> tuple[Rows, tuple[str, ...]]:
        """Divide the windows by the time of their labels: the last are the test.

        Raises:
            InputError: A part has no window.
        """
        settings, end = self._settings(spec), len(loaded.splits["train"])
        spans: dict[SplitName, tuple[int, int]] = {}
        parts: tuple[tuple[SplitName, float], ...] = (
            ("test", spec.test),
            ("validation", spec.validation),
        )
        # The first and the end row of the labels of each part of the training rows.
        for name, share in parts:
            if name not in loaded.splits:
                spans[name] = (end - round(end * share), end)
                end = spans[name][0]
        spans["train"] = (settings.window, end)
        rows: Rows = {}
        for name in ORDER:
            source = "train" if name in spans else name
            first, end = spans.get(name, (settings.window, len(loaded.splits[source])))
            start, last = max(0, first - settings.window), end - settings.window - settings.horizon
            chosen = np.arange(start, last + 1, settings.stride if name == "train" else 1)
            most = spec.max_samples.get(name)
            if most is not None and len(chosen) > most:
                chosen = chosen[np.linspace(0, len(chosen) - 1, most).astype(np.int64)]
            rows[name] = (source, chosen.astype(np.int64))
        shown = ", ".join(f"{name} {len(one):,}" for name, (_, one) in rows.items())
        note = (
            f"windows by time of their labels, without shuffling: {shown}; no label of one part is "
            "in another"
        )
        return rows, (note,)

    def prepare(
        self, spec: DataSpec, loaded: Loaded, division: Division, *, workdir: Path
    ) -> Prepared:
        """Build splits of windows; means and deviations are those of the training rows."""
        from limbeck.data.split import Prepared

        settings, labels = self._settings(spec), division.labels
        if not isinstance(labels, WindowLabels):
            raise ValueError("windows need the labels of a series")
        source, starts = division.rows["train"]
        rows = labels.values[source][: starts[-1] + settings.window + settings.horizon]
        constant = [
            Problem(f"data.series.columns ({name!r} in train)", "no two different numbers", "some")
            for name, column in zip(settings.columns, rows.T, strict=True)
            if not np.nanstd(column) > 0
        ]
        if constant:
            raise InputError(*constant)
        channels = tuple(
            Channel(name, float(np.nanmean(column)), float(np.nanstd(column)))
            for name, column in zip(settings.columns, rows.T, strict=True)
        )
        prepare = SeriesPreprocess(channels, settings.window, settings.horizon, settings.quantiles)
        missing = {name: int(np.isnan(one).sum()) for name, one in labels.values.items()}
        notes = tuple(
            f"{count:,} missing values in {name}: the mean as input, no label"
            for name, count in missing.items()
            if count
        )
        scaled = {
            name: np.stack([one.standardise(v) for one, v in zip(channels, values.T, strict=True)])
            for name, values in labels.values.items()
        }
        splits, hashes = {}, {}
        for name, (source, starts) in division.rows.items():
            stored = dict(zip(settings.columns, labels.values[source].T, strict=True))
            samples = Windows(scaled[source].T.copy(), starts, settings.window, stored)
            splits[name] = division.split(name, samples, prepare)
            hashes[name] = samples.hashes
        return Prepared(splits, prepare, hashes, notes)


class Windows:
    """Windows of a standardised series.

    Args:
        values: The series, float32 `[rows, columns]`; held once for all windows.
        starts: The first row of every window, `[n]`.
        window: The number of steps.
        stored: The columns as stored, float64 `[rows]`, by name, for display.

    Attributes:
        hashes: A hash of each window, `[n]`.
    """

    def __init__(
        self,
        values: NDArray[np.float32],
        starts: NDArray[np.int64],
        window: int,
        stored: Mapping[str, NDArray[np.float64]],
    ) -> None:
        import torch

        self._stored = stored
        self._values, self._starts = torch.from_numpy(values), torch.from_numpy(starts)
        self._steps = torch.arange(window)
        # Windows are equal only where they have the same rows: their place stands for them.
        identity = fingerprint.of_json([values.shape, float(values.sum())])
        base = int(identity[:12], 16)
        self.hashes = (starts.astype(np.uint64) + np.uint64(base)).astype(np.uint64)

    def __len__(self) -> int:
        return len(self._starts)

    def batch(self, index: Tensor) -> Batch:
        """Return `series`, float32 `[n, window, columns]`."""
        return {"series": self._values[self._starts[index][:, None] + self._steps]}

    def raw(self, row: int) -> dict[str, Any]:
        """Return `text`, the rows of the window, and `window`, the values of its columns."""
        start, end = int(self._starts[row]), int(self._starts[row]) + len(self._steps)
        window = {name: column[start:end] for name, column in self._stored.items()}
        return {"text": f"rows {start:,} to {end - 1:,}", "window": window}


modality = Series()
