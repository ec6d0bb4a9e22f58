"""JSON Lines files: a JSON object per line, such as chat messages or pairs of prompt and answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.data.sources._files import read_tables

if TYPE_CHECKING:
    from pathlib import Path

    from limbeck.data.loaded import Loaded
    from limbeck.data.spec import DataSpec

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".json")
BLOCK = 64 * 2**20
"""A row may be this long."""


def load(spec: DataSpec) -> Loaded:
    """Load files of one JSON object per line; a file that ends in `.gz` is decompressed.

    Keys are columns; lists and objects stay nested. A key that a line lacks is missing there.

    Raises:
        InputError: A file is missing or is no JSON Lines, or a key has values of unlike types.
    """
    return read_tables(spec, read, kind="json", suffixes=SUFFIXES)


def read(path: Path, *, total: int = 0) -> Any:
    """Read a JSON Lines file as a table."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import json

    with pyarrow.input_stream(str(path), compression="detect") as stream:
        return json.read_json(stream, read_options=json.ReadOptions(block_size=BLOCK))
