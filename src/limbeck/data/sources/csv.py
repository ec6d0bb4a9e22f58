"""CSV files: texts, tables, or image paths relative to the file's folder, with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.data.sources._files import read_tables
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from limbeck.data.loaded import Loaded
    from limbeck.data.spec import DataSpec

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
BLOCK = 64 * 2**20
"""A row may be this long."""


def load(spec: DataSpec) -> Loaded:
    """Load the CSV files of each split; the first line is the header.

    Every cell is read as text: `01234`, `true` and `NA` are unchanged, and an empty cell is
    missing. The recipe decides the type of a column: those in `table.numeric` are numbers. Files
    that end in `.tsv` are separated by tabs.

    Raises:
        InputError: A file is missing or is not CSV.
    """
    return read_tables(spec, read, kind="csv", suffixes=SUFFIXES)


def read(path: Path, *, total: int = 0) -> Any:
    """Read a CSV file as a table of texts, in memory.

    Raises:
        InputError: Two columns have one name.
    """
    from pyarrow import csv  # type: ignore[import-untyped]

    return csv.read_csv(path, **_options(path))


def batches(path: Path) -> Iterator[Any]:
    """Read a CSV file as `read` does, in record batches of bounded size.

    Raises:
        InputError: Two columns have one name.
    """
    from pyarrow import csv

    with csv.open_csv(path, **_options(path)) as reader:
        yield from reader


def _options(path: Path) -> dict[str, Any]:
    """Return the options of pyarrow that read every cell as text."""
    import pyarrow
    from pyarrow import csv

    tabs = ".tsv" in path.suffixes
    parse = csv.ParseOptions(delimiter="\t" if tabs else ",", newlines_in_values=True)
    block = csv.ReadOptions(block_size=BLOCK)
    with csv.open_csv(path, read_options=block, parse_options=parse) as reader:
        names = reader.schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        allowed = "columns of different names in the first line"
        raise InputError(Problem(str(path), f"{', '.join(twice)} more than once", allowed))
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pyarrow.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
    return {"read_options": block, "parse_options": parse, "convert_options": convert}
