"""Loading of a recipe's data: columns checked, rows split, and prepared for batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from limbeck.core import fingerprint
from limbeck.data.columns import MISSING, read_names, read_numbers
from limbeck.data.files import data_folder, stated_licence
from limbeck.data.label import UNLABELLED, kind_of
from limbeck.data.loaded import Loaded, check_columns, check_rows, split_by_column
from limbeck.data.modality import StreamedModality, modality_of
from limbeck.data.overlap import check_overlap
from limbeck.data.preprocess import Preprocess, Target
from limbeck.data.spec import SOURCES, STREAMS, DataSpec
from limbeck.data.split import Division, Split
from limbeck.data.split_by import draw_of
from limbeck.data.stratify import split
from limbeck.data.streaming import Streams, TrainingStream, heads
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray

    from limbeck.data.split import Groups

MOST_GROUPS = 50
"""With more groups, each has too few samples for a metric."""

CHUNK = 10_000
SPLIT_NAMES = frozenset(
    ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "data", "images")
)


@dataclass(frozen=True)
class Facts:
    """The data of a run and its splits.

    Attributes:
        modality: The kind of data: the name of a file in `limbeck/data/modalities`.
        source: The data source.
        name: The data set's name.
        licence: Its licence, or "not stated".
        fingerprint: A hash of the data and of every setting that changes the samples, except
            augmentation; independent of the files' location.
        classes: The class names; none for regression.
        targets: The names of numeric targets.
        train: The number of training rows.
        validation: The number of validation rows.
        test: The number of test rows.
        notes: Notes for the report: how the splits were made, and warnings.
    """

    modality: str
    source: str
    name: str
    licence: str
    fingerprint: str
    classes: tuple[str, ...]
    train: int
    validation: int
    test: int
    notes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Data:
    """A loaded data set with its splits.

    Attributes:
        train: The training split; the only one that is augmented.
        validation: The validation split.
        test: The test split, used once, at the end.
        classes: The class names, in the order of the labels; none for regression.
        targets: The numeric targets with their training scale, for regression.
        preprocess: The preprocessing from a raw value to model inputs; `save` it with the student.
        facts: Metadata for the report.
        label_kind: The kind of label: `classes`, `values`, `masks`, `boxes`, or the modality that
            has its own.
        stream: The training samples as a stream; `train` has its first rows then.
        order_stated: Whether the recipe states the classes, and with them their order.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    targets: tuple[Target, ...]
    preprocess: Preprocess
    facts: Facts
    label_kind: str = "classes"
    stream: TrainingStream | None = None
    order_stated: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of a model's outputs per sample: the classes, or the targets."""
        return self.preprocess.outputs

    @property
    def mixes_labels(self) -> bool:
        """Return whether training labels are mixtures of two, by mixup or CutMix."""
        return self.train.mixing is not None


def load(spec: DataSpec, *, workdir: Path) -> Data:
    """Load data, check it, split it and prepare it for batches.

    Args:
        spec: The `data` section of a recipe.
        workdir: The folder for a trained tokenizer.

    Raises:
        InputError: A file or column is missing, labels or values are wrong, or a split is empty.

    Example:
        >>> data = load(DataSpec(source="sklearn", name="digits"), workdir=Path())
        >>> len(data.train), len(data.validation), len(data.test)
        (1294, 144, 359)
        >>> data.train.__getitems__([0, 1])["image"].shape
        torch.Size([2, 1, 8, 8])
    """
    streams: Streams | None = STREAMS.load(spec.source)(spec) if spec.streaming else None
    loaded: Loaded = heads(spec, streams) if streams else SOURCES.load(spec.source)(spec)
    if spec.split_column is not None:
        loaded = split_by_column(loaded, spec.split_column)
    modality = modality_of(spec, loaded.splits["train"].column_names)
    if streams is not None and not isinstance(modality, StreamedModality):
        allowed = f"false, for a {modality.name}: images can be streamed"
        raise InputError(Problem("data.streaming", True, allowed))
    kind = None if modality.owns_labels else kind_of(spec)
    columns = {**modality.columns(spec), **(kind.columns(spec) if kind else {})}
    check_columns(loaded.splits, columns, fix=modality.hint)
    check_rows(loaded.splits)
    loaded = modality.arrange(spec, loaded)
    labels = kind.read(spec, loaded) if kind else modality.labels(spec, loaded)
    if labels is None:
        raise ValueError(f"the modality {modality.name} owns its labels, and returns none")
    divided = modality.divide(spec, loaded, labels)
    if divided is None:
        draw = draw_of(spec, loaded.splits, labels.rows, by=labels.by)
        rows, notes = split(labels.rows, spec, by=labels.by, draw=draw)
    else:
        rows, notes = divided
        if spec.split is not None:
            allowed = f"nothing, since {modality.name} divides its samples itself"
            raise InputError(Problem("data.split", "settings", allowed))
    check_rows({name: numbers for name, (_, numbers) in rows.items()})
    if kind is not None:
        labels, limited = kind.limit(spec, labels, rows["train"][1])
        notes = (*notes, *limited)
    strata = {name: labels.rows[source][one] for name, (source, one) in rows.items()}
    labelled = {name: one != UNLABELLED for name, one in strata.items()}
    strata = {name: one[labelled[name]] for name, one in strata.items()}
    checked = labels.check(rows)
    groups = _read_groups(loaded.splits, rows, spec.sensitive_features)
    weights = _read_weights(loaded.splits, spec.columns.weight)
    division = Division(rows, labels, groups, weights, labels.weights(rows["train"][1]))
    ready = modality.prepare(spec, loaded, division, workdir=workdir)
    hashes = {name: one[labelled[name]] for name, one in ready.hashes.items()}
    overlap = check_overlap(hashes, strata, largest=spec.max_overlap, expected=ready.expected)
    files = dict(streams.files) if streams else loaded.files
    licence = spec.licence or loaded.licence or stated_licence(files) or "not stated"
    further = (
        spec.columns.weight,
        *spec.sensitive_features,
        *(spec.split.columns if spec.split else ()),
    )
    in_use = list(dict.fromkeys((*columns, *filter(None, further))))
    own = modality.columns(spec)
    referenced = {} if ready.digests else modality.files(spec, loaded)
    referenced |= kind.files(spec, loaded) if kind else {}
    targets = labels.targets(ready.splits["train"].row_labels)
    facts = Facts(
        modality=modality.name,
        source=spec.source,
        name=_name(spec, files),
        licence=licence,
        fingerprint=_fingerprint(
            spec,
            loaded,
            [name for name in in_use if not ready.digests or name not in own],
            referenced=referenced,
            digests=ready.digests,
            stream=streams.identity if streams else None,
        ),
        classes=labels.classes,
        targets=tuple(one.name for one in targets),
        train=len(rows["train"][1]),
        validation=len(rows["validation"][1]),
        test=len(rows["test"][1]),
        notes=(*loaded.notes, *labels.notes, *notes, *checked, *ready.notes, *overlap),
    )
    preprocess = ready.preprocess.with_outputs(labels.classes, targets)
    stream = None
    if streams is not None and kind is not None and isinstance(modality, StreamedModality):
        stream = TrainingStream(
            spec,
            streams,
            modality,
            kind,
            classes=labels.classes,
            preprocess=preprocess,
            augmentation=ready.splits["train"].augmentation,
        )
    return Data(
        **ready.splits,
        classes=labels.classes,
        targets=targets,
        preprocess=preprocess,
        facts=facts,
        label_kind=kind.name if kind else modality.name,
        stream=stream,
        order_stated=labels.order_stated,
    )


def _read_weights(
    splits: Mapping[str, datasets.Dataset], column: str | None
) -> dict[str, NDArray[np.float32]]:
    """Read the weight of each row, of the splits that have the column.

    Raises:
        InputError: The training split lacks the column, or a weight is no number of at least 0.
    """
    weights: dict[str, NDArray[np.float32]] = {}
    if column is None:
        return weights
    check_columns({"train": splits["train"]}, {column: "data.columns"})
    for name, dataset in splits.items():
        if column not in dataset.column_names:
            continue
        where = f"data.columns.weight ({column!r} in {name})"
        numbers = read_numbers(dataset, column, where=where)
        wrong = np.flatnonzero(~(numbers >= 0))
        if len(wrong) or not numbers.any():
            given = f"{numbers[wrong[0]]} in row {wrong[0]}" if len(wrong) else "0 in every row"
            raise InputError(Problem(where, given, "numbers of at least 0, some of them above 0"))
        weights[name] = numbers.astype(np.float32)
    return weights


def _read_groups(
    splits: Mapping[str, datasets.Dataset],
    rows: Mapping[str, tuple[str, NDArray[np.int64]]],
    columns: tuple[str, ...],
) -> dict[str, Groups]:
    """Read the sensitive features of the validation and test rows, by split and column.

    A row without a value belongs to the group "not stated".
    """
    kept = {name: rows[name] for name in ("validation", "test")}
    sources = {source: splits[source] for source, _ in kept.values()}
    check_columns(sources, dict.fromkeys(columns, "data.sensitive_features"))
    groups: dict[str, Groups] = {name: {} for name in kept}
    problems = []
    for column in columns:
        for name, (source, numbers) in kept.items():
            where = f"data.groups ({column!r} in {source})"
            values = read_names(splits[source], column, where=where).take(numbers)
            if len(values.values) > MOST_GROUPS:
                fix = "Name a column with fewer values."
                dtype = str(getattr(splits[source].features[column], "dtype", ""))
                if dtype.startswith(("int", "uint", "float")):
                    fix = "Add a column that bins the numbers, such as under 30, 30 to 50, over 50."
                allowed = f"at most {MOST_GROUPS}, a group each"
                problems.append(Problem(where, f"{len(values.values)} values", allowed, fix))
                break
            names = values.names()
            groups[name][column] = np.where(names == MISSING, "not stated", names)
    if problems:
        raise InputError(*problems)
    return groups


def _name(spec: DataSpec, files: Mapping[str, list[Path]]) -> str:
    """Return the data set's name: the recipe's, else the name of its folder.

    For a folder named after a split, such as `pets/train`, the parent's name is used.
    """
    if spec.name:
        # A local path is not a name either.
        path = Path(spec.name)
        return path.name if path.is_absolute() or path.is_dir() else spec.name
    paths = [path.absolute() for path in files["train"]]
    folder = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))
    while folder.name.lower() in SPLIT_NAMES and folder != data_folder().absolute():
        folder = folder.parent
    return folder.resolve().name


def _fingerprint(
    spec: DataSpec,
    loaded: Loaded,
    columns: Sequence[str],
    *,
    referenced: Mapping[str, str],
    digests: Mapping[str, str],
    stream: object = None,
) -> str:
    """Hash the spec and the source's files, or the columns in use if there are no files.

    With `digests`, which stand for the modality's own columns, the files are not read again.
    """
    content: dict[str, object]
    if loaded.files and not digests:
        content = {
            name: [_file_hash(path) for path in paths] for name, paths in loaded.files.items()
        }
    else:
        content = {name: _row_hashes(data, columns) for name, data in loaded.splits.items()}
    if referenced:
        content["images"] = dict(referenced)
    if digests:
        content["digests"] = dict(digests)
    if stream is not None:
        content["stream"] = stream
    return fingerprint.of_json({"content": content, "spec": spec.identity()})


def _file_hash(path: Path) -> object:
    if path.is_file():
        return fingerprint.of_file(path)
    files = fingerprint.files_of(path)
    return [(name, fingerprint.of_file(file)) for name, file in files.items()]


def _row_hashes(dataset: datasets.Dataset, columns: Sequence[str]) -> list[str]:
    """Hash columns in chunks of fixed size, so that the storage layout does not matter."""
    import pyarrow  # type: ignore[import-untyped]

    # Training rows need no sensitive features.
    present = [column for column in columns if column in dataset.column_names]
    table = dataset.select_columns(present).with_format("arrow")
    hashes = []
    for start in range(0, len(table), CHUNK):
        chunk = table[start : start + CHUNK].combine_chunks().replace_schema_metadata(None)
        stream = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(stream, chunk.schema) as writer:
            writer.write_table(chunk)
        hashes.append(hashlib.sha256(stream.getvalue()).hexdigest())
    return hashes
