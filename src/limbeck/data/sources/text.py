"""Plain text files, of which each is a row; a modality divides them into documents."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

from limbeck.data.sources._files import read_tables

if TYPE_CHECKING:
    from pathlib import Path

    from limbeck.data.loaded import Loaded
    from limbeck.data.spec import DataSpec

SUFFIXES = (".txt", ".txt.gz", ".text", ".md")
LARGEST, CHUNK = 4 * 2**30, 2**20


def load(spec: DataSpec) -> Loaded:
    """Load text files as rows with a column `text`; a file that ends in `.gz` is decompressed.

    Raises:
        InputError: A file is missing, is no text in UTF-8, or has over 4 GiB of text.
    """
    return read_tables(spec, read, kind="text", suffixes=SUFFIXES)


def read(path: Path, *, total: int = 0) -> Any:
    """Read a file as a table of one row.

    Raises:
        ValueError: It is no text in UTF-8, or too large.
    """
    import pyarrow  # type: ignore[import-untyped]

    parts, size = [], 0
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        while part := stream.read(CHUNK):
            size += len(part)
            if size > LARGEST:  # a compressed file may expand a thousand times
                raise ValueError(f"more than {LARGEST / 2**30:.0f} GiB of text")
            parts.append(part)
    text = b"".join(parts).decode("utf-8-sig")
    return pyarrow.table({"text": pyarrow.array([text], pyarrow.large_string())})
