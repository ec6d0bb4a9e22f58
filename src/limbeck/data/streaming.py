"""Training rows of a stream: read in order, shuffled in blocks, decoded and augmented.

The first rows of the stream stand for the training split wherever a part of a run needs rows by
index: statistics, probes, calibration, the report. Validation and test are read whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.data.loaded import Loaded
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets
    from torch import Tensor

    from limbeck.data.label import LabelKind
    from limbeck.data.modality import StreamedModality
    from limbeck.data.preprocess import Preprocess
    from limbeck.data.rows import Augmentation
    from limbeck.data.settings import Settings
    from limbeck.data.spec import DataSpec

HEAD, BUFFER, AT_ONCE = 1000, 1000, 16
"""The rows that stand for the training split, those shuffled together, and those decoded at once,
by default."""
SHUFFLE, FILES = 1, 2
"""Purposes of random numbers."""


@dataclass(frozen=True)
class Streams:
    """The streams of a source.

    Attributes:
        train: Opens the training stream of an epoch, which may have an order of files of its own.
        others: The streams of validation and test.
        identity: The names and sizes of the training files, or the revision.
        licence: The licence stated by the source.
        files: The files of each split, if there are any.
    """

    train: Callable[[int], datasets.IterableDataset]
    others: Mapping[str, datasets.IterableDataset]
    identity: object
    licence: str = ""
    files: Mapping[str, list[Path]] = field(default_factory=dict)


def of_files(spec: DataSpec, kind: str) -> Streams:
    """Return the streams of files, in another order of the training files in each epoch.

    Raises:
        InputError: A file is missing, cannot be read, or has no rows.
    """
    from limbeck.core.random import random_bits
    from limbeck.data.files import resolve

    named = resolve(spec.files)
    files = {split: [str(path) for path in paths] for split, paths in named.items()}

    def read(split: str, paths: list[str]) -> datasets.IterableDataset:
        return opened(f"data.files.{split}", kind, data_files={split: paths}, split=split)

    def train(epoch: int) -> datasets.IterableDataset:
        paths = files["train"]
        bits = random_bits(spec.split_seed, FILES, epoch, index=range(len(paths)))
        return read("train", [paths[number] for number in np.argsort(bits, kind="stable")])

    others = {split: read(split, paths) for split, paths in files.items() if split != "train"}
    sizes = [(path.name, path.stat().st_size) for path in named["train"]]
    return Streams(train, others, sizes, files=named)


def opened(where: str, path: str, **settings: Any) -> Any:
    """Open a stream of `datasets`.

    Raises:
        InputError: It cannot be opened.
    """
    import datasets

    try:
        return datasets.load_dataset(path, streaming=True, **settings)
    # The library raises errors of many types: network, name, access rights, corrupt file.
    except Exception as error:
        fix = f"It could not be opened: {type(error).__name__}: {str(error)[:500]}"
        given = settings.get("data_files", path)
        raise InputError(Problem(where, given, "data that can be streamed", fix)) from error


def heads(spec: DataSpec, streams: Streams) -> Loaded:
    """Read the first rows of train, and validation and test up to `data.max_samples`.

    Raises:
        InputError: Validation or test is missing, or rows cannot be read.
    """
    missing = [split for split in ("validation", "test") if split not in streams.others]
    if missing:
        fix = "Rows cannot be drawn from a stream: name the files, or the splits, that hold them."
        raise InputError(*(Problem.missing(f"data.files.{split}", fix) for split in missing))
    counts: dict[str, int] = {
        **dict(spec.max_samples.items()),
        "train": spec.max_samples.get("train", HEAD),
    }
    splits = {
        name: _first(stream, counts.get(name), f"data.files.{name}")
        for name, stream in {"train": streams.train(0), **streams.others}.items()
    }
    note = (
        f"train is a stream: its first {len(splits['train']):,} rows stand for it in statistics, "
        "in the count of equal rows and in calibration; its content is not part of the fingerprint"
    )
    return Loaded(splits, licence=streams.licence, notes=(note,))


def _first(stream: datasets.IterableDataset, count: int | None, where: str) -> datasets.Dataset:
    import datasets

    stream = plain(stream)
    try:
        rows = list(islice(stream, count))
    # As for `opened`: rows are read only now.
    except Exception as error:
        fix = f"It could not be read: {type(error).__name__}: {str(error)[:500]}"
        raise InputError(Problem(where, "a stream", "rows that can be read", fix)) from error
    return datasets.Dataset.from_list(rows, features=stream.features)


def plain(stream: datasets.IterableDataset) -> datasets.IterableDataset:
    """Return a stream whose images stay encoded."""
    import datasets

    for name, feature in (stream.features or {}).items():
        if isinstance(feature, datasets.Image):
            stream = stream.cast_column(name, datasets.Image(decode=False))
    return stream


class TrainingStream:
    """The training samples of a stream, epoch by epoch, each decoded and augmented.

    Rows are shuffled in blocks of `data.shuffle_buffer`. The state is the place of a block in the
    stream and the number of its samples that were taken, so that a training resumes to the same
    bits after reading one block again.

    Args:
        spec: The data section.
        streams: The streams of the source.
        modality: The modality, which prepares rows.
        kind: The kind of label.
        classes: The class names.
        preprocess: The preprocessing.
        augmentation: The augmentation; its draws are by seed, epoch and place in the stream.
    """

    def __init__(
        self,
        spec: DataSpec,
        streams: Streams,
        modality: StreamedModality[Settings],
        kind: LabelKind[Settings],
        *,
        classes: tuple[str, ...],
        preprocess: Preprocess,
        augmentation: Augmentation | None,
    ) -> None:
        self._spec, self._streams, self._modality = spec, streams, modality
        self._labels = kind
        self._classes, self._preprocess, self._augmentation = classes, preprocess, augmentation
        self._seed = self._epoch = 0
        self._start: Mapping[str, Any] = {}
        self._state: dict[str, Any] = {}

    def set_seed(self, seed: int) -> None:
        """Set the seed of order and augmentation: the run's seed."""
        self._seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, and move to its beginning."""
        self._epoch, self._start, self._state = epoch, {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last sample, as plain data."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a position of this epoch."""
        self._start = dict(state)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Iterate over the samples of the epoch."""
        from limbeck.core.random import random_bits

        stream, start = plain(self._streams.train(self._epoch)), self._start
        block, first, taken = (start.get(name, 0) for name in ("block", "first", "taken"))
        place = start.get("rows")
        if place is not None:
            stream.load_state_dict(place)
        rows = iter(stream)
        while found := list(islice(rows, self._spec.shuffle_buffer or BUFFER)):
            bits = random_bits(self._seed, SHUFFLE, self._epoch, block, index=range(len(found)))
            order = np.argsort(bits, kind="stable")
            for begin in range(taken, len(order), AT_ONCE):
                chosen = order[begin : begin + AT_ONCE]
                for number, sample in enumerate(self._samples(found, chosen, first, stream)):
                    taken = begin + number + 1
                    self._state = {"rows": place, "block": block, "first": first, "taken": taken}
                    yield sample
            place, taken = stream.state_dict(), 0
            block, first = block + 1, first + len(found)

    def _samples(
        self, rows: list[Any], chosen: np.ndarray, first: int, stream: datasets.IterableDataset
    ) -> Iterator[dict[str, Tensor]]:
        """Prepare some rows of a block that begins at row `first` of the stream."""
        import datasets
        import torch

        table = datasets.Dataset.from_list([rows[row] for row in chosen], features=stream.features)
        spec = self._spec.model_copy(update={"classes": self._classes})
        numbers = first + chosen
        try:
            labels = self._labels.read(spec, Loaded({"train": table})).rows["train"]
        except InputError as error:
            raise InputError(*(self._placed(spec, table, numbers) or error.problems)) from error
        samples = self._modality.samples(spec, table, self._preprocess, numbers)
        index = torch.arange(len(chosen))
        batch = {**samples.batch(index), "labels": torch.from_numpy(labels)}
        if self._augmentation is not None:
            places = torch.from_numpy(numbers)
            batch = self._augmentation(batch, places, seed=self._seed, view=self._epoch, spatial=())
        for number in range(len(chosen)):
            yield {name: value[number] for name, value in batch.items()}

    def _placed(
        self, spec: DataSpec, table: datasets.Dataset, numbers: np.ndarray
    ) -> list[Problem]:
        """Return the problem of each row whose label cannot be read, by its row in the stream."""
        problems, column = [], spec.columns.label
        for row, number in enumerate(numbers.tolist()):
            one = table.select([row])
            try:
                self._labels.read(spec, Loaded({"train": one}))
            except InputError as error:
                where = f"data.columns.label ({column!r} in the stream of train), row {number}"
                found = error.problems[0]
                problems.append(Problem(where, one[0][column], found.allowed, found.fix))
        return problems
