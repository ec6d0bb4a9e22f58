"""Validation of a data set's columns and sizes before its rows are read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core import fingerprint
from limbeck.data import prepare
from limbeck.data.columns import MISSING, read_names
from limbeck.data.files import data_folder, stated_licence
from limbeck.data.images import random_bits
from limbeck.data.labels import read_labels
from limbeck.data.overlap import check_overlap
from limbeck.data.preprocess import Preprocess
from limbeck.data.spec import SOURCES, DataSpec
from limbeck.data.split import Split
from limbeck.data.tables import tables
from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import datasets
    from numpy.typing import NDArray

    from limbeck.data.loaded import Loaded


def columns_are_there(
    splits: Mapping[str, datasets.Dataset], columns: Mapping[str, str], *, fix: str = ""
) -> None:
    """Raise an error if a split lacks a column.

    Args:
        splits: The source's splits.
        columns: The required columns, and their key in the recipe, for messages.
        fix: An alternative to the suggested similar column name.

    Raises:
        InputError: A column is missing; the message lists the existing columns and the nearest
            name.
    """
    problems = [
        Problem(
            f"{where} (of {split})",
            column,
            ", ".join(dataset.column_names),
            f"{did_you_mean(column, dataset.column_names)} {fix}".strip(),
        )
        for split, dataset in splits.items()
        for column, where in columns.items()
        if column not in dataset.column_names
    ]
    if problems:
        raise InputError(*problems)


def rows_are_there(splits: Mapping[str, Sized]) -> None:
    """Raise an error if a split has no rows.

    Raises:
        InputError: A split is empty.

    Example:
        >>> rows_are_there({"train": [1, 2], "test": []})
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: data (test): got 'no rows'; allowed: at least one row. ...
    """
    fix = "Give it rows, or a larger share of those that there are."
    problems = [
        Problem(f"data ({split})", "no rows", "at least one row", fix)
        for split, rows in splits.items()
        if len(rows) == 0
    ]
    if problems:
        raise InputError(*problems)


def texts_are_there(splits: Mapping[str, datasets.Dataset], column: str) -> None:
    """Raise an error if a row has no text.

    Raises:
        InputError: Texts are missing; the message has their number and the first row, for every
            split.
    """
    problems = []
    for split, dataset in splits.items():
        values = list(dataset[column])
        wrong = [row for row, value in enumerate(values) if not isinstance(value, str)]
        if wrong:
            given = f"{values[wrong[0]]!r} in row {wrong[0]} ({len(wrong)} such rows)"
            where = f"data.columns.text ({column!r} in {split})"
            problems.append(Problem(where, given, "a text in every row"))
    if problems:
        raise InputError(*problems)


TEST, VALIDATION, LIMIT = 1, 2, 3
SHOWN = 10


def choose(
    labels: NDArray[np.int64], count: int, *, seed: int, purpose: int, least: int = 0, left: int = 0
) -> NDArray[np.bool_]:
    """Draw a stratified random subset in which each class keeps its share, within one row.

    Args:
        labels: The class of each row.
        count: The number of rows to draw.
        seed: The random seed.
        purpose: The purpose of the draw, so that two draws with one seed differ.
        least: The minimum number of drawn rows per class.
        left: The minimum number of remaining rows per class.

    Returns:
        A mask over the rows with exactly `count` true values. If `least` or `left` cannot be met,
        because a class is too small or `count` too large, only the shares decide.

    Example:
        >>> labels = np.array([0, 1] * 50)
        >>> chosen = choose(labels, 10, seed=0, purpose=TEST)
        >>> np.bincount(labels[chosen]).tolist()
        [5, 5]
    """
    rows = len(labels)
    order = np.lexsort((random_bits(seed, purpose, index=np.arange(rows)), labels))
    # Every (rows / count)-th row of the rows sorted by class: no class is off by more than one.
    steps = np.arange(rows + 1, dtype=np.int64) * count // max(rows, 1)
    chosen = np.zeros(rows, dtype=np.bool_)
    chosen[order[np.diff(steps) > 0]] = True
    if rows and (least or left):
        _balance(labels, order, chosen, least=least, left=left)
    return chosen


def _balance(
    labels: NDArray[np.int64],
    order: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    *,
    least: int,
    left: int,
) -> None:
    """Exchange rows of rare classes for rows of the most frequent classes, in place."""
    sizes = np.bincount(labels)
    taken = np.bincount(labels[chosen], minlength=len(sizes))
    low = np.minimum(least, sizes)
    high = np.maximum(sizes - left, low)
    for wanted in (True, False):
        for rare in np.flatnonzero(taken < low if wanted else taken > high):
            while taken[rare] < low[rare] if wanted else taken[rare] > high[rare]:
                spare = taken - low if wanted else high - taken
                common = int(spare.argmax())
                if spare[common] <= 0:
                    return
                for label, value in ((rare, wanted), (common, not wanted)):
                    mine = order[(labels[order] == label) & (chosen[order] != value)]
                    chosen[mine[0]] = value
                    taken[label] += 1 if value else -1


def split(
    labels: dict[str, NDArray[np.int64]], spec: DataSpec
) -> tuple[dict[str, tuple[str, NDArray[np.int64]]], tuple[str, ...]]:
    """Split the rows of the source's splits into train, validation and test.

    The test rows are drawn first and do not depend on the validation share; then validation; then
    the limits are applied. Rows stay in the source's order.

    Returns:
        The source split and row indices of each split; and notes for the report.
    """
    rows = {name: (name, np.arange(len(values))) for name, values in labels.items()}
    notes: list[str] = []
    for name, share, purpose in (
        ("test", spec.test, TEST),
        ("validation", spec.validation, VALIDATION),
    ):
        if name not in rows:
            source, train = rows["train"]
            seed, count = spec.split_seed, round(share * len(train))
            # A class without training rows could not be learned.
            chosen = choose(labels[source][train], count, seed=seed, purpose=purpose, left=1)
            rows[name] = (source, train[chosen])
            rows["train"] = (source, train[~chosen])
            notes.append(
                f"{name}: {count} of {len(train)} training rows, stratified, split_seed {seed}"
            )
    _check_limits({name: labels[source][kept] for name, (source, kept) in rows.items()}, spec)
    for name, limit in spec.max_samples.items():
        source, kept = rows[name]
        if limit < len(kept):
            seed, mine = spec.split_seed, labels[source][kept]
            chosen = choose(mine, limit, seed=seed, purpose=LIMIT, least=1)
            rows[name] = (source, kept[chosen])
            notes.append(f"{name}: limited to {limit} of {len(kept)} rows, stratified")
    return rows, tuple(notes)


def _check_limits(labels: dict[str, NDArray[np.int64]], spec: DataSpec) -> None:
    """Raise an error if a limit leaves no row for some class."""
    problems = []
    for name, limit in spec.max_samples.items():
        classes = len(np.unique(labels[name]))
        if limit < classes:
            allowed = f"at least {classes}, one row for each class"
            problems.append(Problem(f"data.max_samples.{name}", limit, allowed))
    if problems:
        raise InputError(*problems)


def check_classes(labels: Mapping[str, NDArray[np.int64]], classes: Sequence[str]) -> list[str]:
    """Check that every class has training rows; note classes that another split lacks.

    Args:
        labels: The class of each row, by split.
        classes: The class names.

    Returns:
        Notes for the report.

    Raises:
        InputError: Classes have no training row; the message lists each with its rows.

    Example:
        >>> check_classes({"train": np.array([0, 1]), "test": np.array([1])}, ["a", "b"])
        ['test: no row of a (1 in train)']
    """
    counts = {name: np.bincount(one, minlength=len(classes)) for name, one in labels.items()}
    there = sum(counts.values()) > 0
    missing = {name: np.flatnonzero((one == 0) & there) for name, one in counts.items()}

    def shown(split: str) -> str:
        others = [name for name in counts if name != split]
        named = [
            f"{classes[number]} ("
            + ", ".join(f"{counts[name][number]} in {name}" for name in others)
            + ")"
            for number in missing[split][:SHOWN]
        ]
        more = len(missing[split]) - len(named)
        return ", ".join(named) + (f" and {more} more" if more > 0 else "")

    if len(missing["train"]):
        fix = "Add rows of these classes, remove them, or keep fewer rows for the test."
        allowed = "at least one training row for each class"
        raise InputError(Problem("data (train)", f"no row of {shown('train')}", allowed, fix))
    return [f"{name}: no row of {shown(name)}" for name in counts if len(missing[name])]


if TYPE_CHECKING:
    from collections.abc import Mapping

    import datasets
    import numpy as np
    from numpy.typing import NDArray

    Groups = dict[str, NDArray[np.str_]]


MOST = 50
"""More groups leave too few samples in each to say anything of it."""

UNSTATED = "not stated"
KEPT = ("validation", "test")


def read_groups(
    splits: Mapping[str, datasets.Dataset],
    rows: Mapping[str, tuple[str, NDArray[np.int64]]],
    columns: tuple[str, ...],
) -> dict[str, Groups]:
    """Read the sensitive features of the validation and test rows.

    A row without a value belongs to the group "not stated".

    Args:
        splits: The source's splits.
        rows: The source split and the row indices in it, by split.
        columns: The sensitive feature columns.

    Returns:
        The group of each validation and test row, `[rows]`, by column.

    Raises:
        InputError: A column is missing, or has more than 50 values; the message lists every
            problem.
    """
    kept = {name: rows[name] for name in KEPT}
    sources = {source: splits[source] for source, _ in kept.values()}
    columns_are_there(sources, dict.fromkeys(columns, "data.sensitive_features"))
    groups: dict[str, Groups] = {name: {} for name in kept}
    problems = []
    for column in columns:
        for name, (source, numbers) in kept.items():
            where = f"data.groups ({column!r} in {source})"
            named = read_names(splits[source], column, where=where).take(numbers)
            if len(named.values) > MOST:
                problems.append(_too_many(splits[source], column, len(named.values), where))
                break
            groups[name][column] = _stated(named.names())
    if problems:
        raise InputError(*problems)
    return groups


def _stated(names: NDArray[np.str_]) -> NDArray[np.str_]:
    import numpy as np

    return np.where(names == MISSING, UNSTATED, names)


def _too_many(dataset: datasets.Dataset, column: str, count: int, where: str) -> Problem:
    fix = "Name a column with fewer values."
    if str(getattr(dataset.features[column], "dtype", "")).startswith(("int", "uint", "float")):
        fix = "Add a column that bins the numbers, such as under 30, 30 to 50, over 50."
    return Problem(where, f"{count} values", f"at most {MOST}, a group each", fix)


CHUNK = 10_000
OF_A_SPLIT = frozenset(
    ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "data", "images")
)


@dataclass(frozen=True)
class Facts:
    """The data of a run and its splits.

    Attributes:
        source: The data source.
        name: The data set's name.
        licence: Its licence, or "not stated".
        fingerprint: A hash of the data and of every setting that changes the samples, except
            augmentation; independent of the files' location.
        classes: The class names.
        train: The number of training rows.
        validation: The number of validation rows.
        test: The number of test rows.
        notes: Notes for the report: how the splits were made, and warnings.
    """

    source: str
    name: str
    licence: str
    fingerprint: str
    classes: tuple[str, ...]
    train: int
    validation: int
    test: int
    notes: tuple[str, ...] = ()


def name_of(spec: DataSpec, loaded: Loaded) -> str:
    """Return the data set's name: the recipe's, else the name of its folder.

    For a folder named after a split, such as `pets/train`, the parent's name is used.
    """
    if spec.name:
        # A local path is not a name either.
        place = Path(spec.name)
        return place.name if place.is_absolute() or place.is_dir() else spec.name
    paths = [path.absolute() for path in loaded.files["train"]]
    folder = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))
    while folder.name.lower() in OF_A_SPLIT and folder != data_folder().absolute():
        folder = folder.parent
    return folder.resolve().name


def fingerprint_of(spec: DataSpec, loaded: Loaded, columns: Sequence[str]) -> str:
    """Hash the spec and the source's files, or the columns in use if there are no files."""
    content: dict[str, object] = {
        split: [_files(path) for path in paths] for split, paths in loaded.files.items()
    }
    if not content:
        content = {split: _rows(data, columns) for split, data in loaded.splits.items()}
    pictures = {} if spec.text or spec.table else _pictures(spec, loaded)
    if pictures:
        content["pictures"] = pictures
    return fingerprint.of_json({"content": content, "spec": spec.identity()})


def _pictures(spec: DataSpec, loaded: Loaded) -> dict[str, str]:
    """Hash the image files that rows reference by path, independent of their folder."""
    found: dict[str, str] = {}
    for split, dataset in loaded.splits.items():
        files = loaded.files.get(split, [])
        if spec.columns.image not in dataset.column_names or any(path.is_dir() for path in files):
            continue  # a folder of images is hashed as a whole
        folder = files[0].parent if files else Path()
        cells = dataset.select_columns([spec.columns.image]).with_format("arrow")
        for start in range(0, len(cells), CHUNK):
            for name in _paths(cells[start : start + CHUNK].column(0).combine_chunks()):
                if (folder / name).is_file():
                    found[name] = fingerprint.of_file(folder / name)
    return found


def _paths(cells: Any) -> Iterator[str]:
    """Yield the paths in a column of texts, or of images that have no bytes of their own."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.compute as compute  # type: ignore[import-untyped]

    kind = pyarrow.types
    if kind.is_struct(cells.type) and {"bytes", "path"} <= {field.name for field in cells.type}:
        cells = cells.filter(compute.is_null(compute.struct_field(cells, "bytes")))
        cells = compute.struct_field(cells, "path")
    if kind.is_string(cells.type) or kind.is_large_string(cells.type):
        yield from (name for name in cells.to_pylist() if name)


def _files(path: Path) -> object:
    if path.is_file():
        return fingerprint.of_file(path)
    files = fingerprint.files_of(path)
    return [(name, fingerprint.of_file(file)) for name, file in files.items()]


def _rows(dataset: datasets.Dataset, columns: Sequence[str]) -> list[str]:
    """Hash columns in chunks of fixed size, so that the storage layout does not matter."""
    import pyarrow

    # Training rows need no sensitive features.
    there = [column for column in columns if column in dataset.column_names]
    table = dataset.select_columns(there).with_format("arrow")
    hashes = []
    for start in range(0, len(table), CHUNK):
        chunk = table[start : start + CHUNK].combine_chunks().replace_schema_metadata(None)
        stream = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(stream, chunk.schema) as writer:
            writer.write_table(chunk)
        hashes.append(hashlib.sha256(stream.getvalue()).hexdigest())
    return hashes


@dataclass(frozen=True)
class Data:
    """A loaded data set with its splits.

    Attributes:
        train: The training split; the only one that is augmented.
        validation: The validation split.
        test: The test split, used once, at the end.
        classes: The class names, in the order of the labels.
        preprocess: The preprocessing from an image, text or table row to model inputs; `save` it
            with the student.
        facts: Metadata for the report.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    preprocess: Preprocess
    facts: Facts


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
    loaded: Loaded = SOURCES.load(spec.source)(spec)
    textual = _is_text(spec, loaded)
    columns = _columns(spec, loaded, textual=textual)
    rows_are_there(loaded.splits)
    labels = read_labels(loaded.splits, spec.columns.label, spec.classes)
    rows, notes = split(labels.rows, spec)
    rows_are_there({name: numbers for name, (_, numbers) in rows.items()})
    mine = {name: labels.rows[source][numbers] for name, (source, numbers) in rows.items()}
    rare = check_classes(mine, labels.classes)
    groups = read_groups(loaded.splits, rows, spec.sensitive_features)
    division = prepare.Division(rows, labels.rows, groups)
    if spec.table:
        ready = tables(spec.table, loaded, division)
    elif textual:
        texts_are_there(loaded.splits, spec.columns.text)
        ready = prepare.texts(spec, loaded, division, workdir=workdir)
    else:
        ready = prepare.images(spec, loaded, division)
    overlap = check_overlap(
        ready.hashes,
        mine,
        largest=spec.max_overlap,
        expected=ready.expected,
    )
    splits = ready.splits
    in_use = list(dict.fromkeys((*columns, *spec.sensitive_features)))
    facts = Facts(
        source=spec.source,
        name=name_of(spec, loaded),
        licence=_licence(spec, loaded),
        fingerprint=fingerprint_of(spec, loaded, in_use),
        classes=labels.classes,
        train=len(splits["train"]),
        validation=len(splits["validation"]),
        test=len(splits["test"]),
        notes=(*loaded.notes, *labels.notes, *notes, *rare, *ready.notes, *overlap),
    )
    preprocess = replace(ready.preprocess, classes=labels.classes)
    return Data(**splits, classes=labels.classes, preprocess=preprocess, facts=facts)


def _columns(spec: DataSpec, loaded: Loaded, *, textual: bool) -> tuple[str, ...]:
    """Return the columns of the samples and their labels; check that all exist."""
    columns = {spec.columns.text if textual else spec.columns.image: "data.columns"}
    if spec.table:
        columns = dict.fromkeys(spec.table.columns, "data.table")
    columns[spec.columns.label] = "data.columns"
    fix = "" if spec.table else "The columns of a table are named in data.table."
    columns_are_there(loaded.splits, columns, fix=fix)
    return tuple(columns)


def _is_text(spec: DataSpec, loaded: Loaded) -> bool:
    """Return whether the data is text: by the recipe, else by the existing columns."""
    if spec.text or spec.image or spec.table:
        return spec.text is not None
    columns = loaded.splits["train"].column_names
    return spec.columns.text in columns and spec.columns.image not in columns


def _licence(spec: DataSpec, loaded: Loaded) -> str:
    return spec.licence or loaded.licence or stated_licence(loaded.files) or "not stated"
