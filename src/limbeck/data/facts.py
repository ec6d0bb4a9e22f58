"""Data set metadata for the report, and the data fingerprint."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck import fingerprint
from limbeck.data.files import data_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import datasets

    from limbeck.data.loaded import Loaded
    from limbeck.data.spec import DataSpec

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
