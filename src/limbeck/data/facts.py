"""What a report says about the data, and the name that the same data always gets."""

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
    """Which data a run saw, and how it was divided.

    Attributes:
        source: Where it came from.
        name: The data set's name.
        licence: Its licence, or "not stated".
        fingerprint: A hash of the data's bytes and of all that decides what becomes of them, apart
            from augmentation: same data, same name, wherever the files lie.
        classes: The classes' names.
        train: How many rows train.
        validation: How many rows choose.
        test: How many rows are kept for the end.
        notes: How the splits were made, and what else a reader should know.
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
    """Return the data's name: as the recipe has it, else that of the folder it lies in.

    A folder that is called after a split, such as `pets/train`, is no name: its parent is.
    """
    if spec.name:
        # A place on this machine is no name either.
        place = Path(spec.name)
        return place.name if place.is_absolute() or place.is_dir() else spec.name
    paths = [path.absolute() for path in loaded.files["train"]]
    folder = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))
    while folder.name.lower() in OF_A_SPLIT and folder != data_folder().absolute():
        folder = folder.parent
    return folder.resolve().name


def fingerprint_of(spec: DataSpec, loaded: Loaded, columns: Sequence[str]) -> str:
    """Hash the source's files, or its columns in use if there are none, and the spec."""
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
    """Hash the files of pictures that rows name by their paths, without their folder."""
    found: dict[str, str] = {}
    for split, dataset in loaded.splits.items():
        files = loaded.files.get(split, [])
        if spec.columns.image not in dataset.column_names or any(path.is_dir() for path in files):
            continue  # a folder of pictures is hashed as a whole
        folder = files[0].parent if files else Path()
        cells = dataset.select_columns([spec.columns.image]).with_format("arrow")
        for start in range(0, len(cells), CHUNK):
            for name in _paths(cells[start : start + CHUNK].column(0).combine_chunks()):
                if (folder / name).is_file():
                    found[name] = fingerprint.of_file(folder / name)
    return found


def _paths(cells: Any) -> Iterator[str]:
    """Give the paths in a column of texts, or of pictures that have no bytes of their own."""
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
    """Hash columns in chunks of fixed size, so that how they are stored is of no account."""
    import pyarrow

    # Training rows need not say to whom they belong.
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
