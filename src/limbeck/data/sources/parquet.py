"""Parquet files: images as encoded bytes or nested lists, texts, or tables, with labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from limbeck.data.loaded import quiet
from limbeck.data.sources._files import read_tables
from limbeck.data.streaming import Streams, of_files
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from limbeck.data.loaded import Loaded
    from limbeck.data.spec import DataSpec

SUFFIXES = (".parquet",)
WHERE = "data.files"
MIB = 2**20
IN_MEMORY = 2048 * MIB
"""Files that are larger together are read through the cache of `datasets` in the user's home."""
ALWAYS, EXPANSION = 512 * MIB, 200
"""A file may take so much memory, or so many times its size."""
AT_ONCE, MOST_ROWS = 128 * MIB, 4096
MOST_CLASSES = 1_000_000


def load(spec: DataSpec) -> Loaded:
    """Load the Parquet files of each split.

    Raises:
        InputError: A file is missing, is not Parquet, or is a decompression bomb.
    """
    return read_tables(spec, read, kind="parquet", suffixes=SUFFIXES)


def stream(spec: DataSpec) -> Streams:
    """Return the Parquet files as streams.

    Raises:
        InputError: A file is missing, or is not Parquet.
    """
    return of_files(spec, "parquet")


def read(path: Path, *, total: int = 0) -> Any:
    """Read a Parquet file: in chunks of bounded size to a table in memory, unless it is large.

    Args:
        path: The file.
        total: The bytes of all files of the source; over 2 GiB they are memory-mapped from the
            cache of `datasets`, in which they are written once.

    Raises:
        InputError: The table takes over 512 MiB of memory and over 200 times the file's size; or
            its metadata declares invalid columns.
    """
    import datasets
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    size = path.stat().st_size
    with parquet.ParquetFile(path) as file:
        # A file's metadata can be as malicious as its content.
        _check_metadata(path, file.schema_arrow)
        if max(size, total) > IN_MEMORY:
            with quiet():
                return datasets.Dataset.from_parquet(str(path))
        allowed, taken, batches = max(ALWAYS, EXPANSION * size), 0, []
        for batch in file.iter_batches(batch_size=_rows(file.metadata)):
            batches.append(batch)
            taken += batch.nbytes
            if taken > allowed:
                given = f"{path}: {size:,} bytes that expand to over {allowed:,}"
                fix = "If you trust the file, write it again without such repetition."
                raise InputError(Problem(WHERE, given, f"{EXPANSION} times its size", fix))
        return pyarrow.Table.from_batches(batches, schema=file.schema_arrow)


def batches(path: Path) -> Iterator[Any]:
    """Read a Parquet file in record batches of bounded size."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=_rows(file.metadata))


def _rows(metadata: Any) -> int:
    """Return the number of rows per chunk: one cell may be as large as its column's chunk."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(metadata.num_columns)]
    largest = max([1, *(column.total_uncompressed_size for column in columns)])
    return max(1, min(MOST_ROWS, AT_ONCE // largest))


def _check_metadata(path: Path, schema: Any) -> None:
    """Raise an error on declared column types that would read files or exhaust the memory."""
    stated = (schema.metadata or {}).get(b"huggingface")
    if stated is None:
        return
    try:
        entries = list(_objects(json.loads(stated)))
    except (ValueError, RecursionError) as error:
        given = f"{path} (its metadata is no JSON)"
        raise InputError(Problem(WHERE, given, "metadata as datasets writes it")) from error
    for entry in entries:
        count = entry.get("num_classes")
        if entry.get("names_file") is not None:
            allowed = "class names in the file itself"
            raise InputError(Problem(WHERE, f"{path} (names_file)", allowed))
        if count is not None and not (isinstance(count, int) and 0 < count <= MOST_CLASSES):
            allowed = f"1 to {MOST_CLASSES:,} classes"
            raise InputError(Problem(WHERE, f"{path} (num_classes {count})", allowed))


def _objects(content: Any) -> Iterable[dict[str, Any]]:
    if isinstance(content, dict):
        yield content
    inside = content.values() if isinstance(content, dict) else content
    if isinstance(content, dict | list):
        for value in inside:
            yield from _objects(value)
