"""Inputs of a student from files, folders, arguments and standard input, in bounded memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from limbeck.data.preprocess import Named, parse_record, require_columns
from limbeck.data.sources import csv, parquet
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    from limbeck.data.preprocess import Preprocess

STANDARD_INPUT = "-"
LINES = (".txt", ".jsonl")
TABLES = (*csv.SUFFIXES, *parquet.SUFFIXES)


@dataclass(frozen=True)
class Sources:
    """The inputs that the arguments of a command name.

    Attributes:
        inputs: The inputs with their names, read from files while they are iterated.
        count: The number of inputs; None if files have to be read to know it.
    """

    inputs: Iterable[Named]
    count: int | None


def find_inputs(names: Sequence[str], prepare: Preprocess, *, column: str = "") -> Sources:
    """Find the inputs that the arguments of a command name.

    An argument is an image, a sound file, or a folder of them; a text, or a `.txt` file with a text
    per line; or a table row as a JSON object. A `.csv`, `.tsv`, `.jsonl` or `.parquet` file has an
    input per row, and `-` is one input per line of standard input. Empty lines are left out.

    Args:
        names: The arguments.
        prepare: The student's preprocessing.
        column: The column of images, sounds or texts in files of rows; by default `image`, `audio`
            or `text`.

    Raises:
        InputError: Files or columns are missing, or folders hold no input; lists every problem.
    """
    if column and prepare.columns:
        allowed = f"nothing: the columns are {', '.join(prepare.columns)}"
        raise InputError(Problem("--column", column, allowed))
    parts: list[Iterable[Named]] = []
    problems: list[Problem] = []
    for name in names:
        with gathering(problems):
            parts.append(_find(name, prepare, column or prepare.kind))
    if problems:
        raise InputError(*problems)
    counts = [len(part) for part in parts if isinstance(part, list)]
    count = sum(counts) if len(counts) == len(parts) else None
    return Sources(chain.from_iterable(parts), count)


def _find(name: str, prepare: Preprocess, column: str) -> Iterable[Named]:
    if name == STANDARD_INPUT:
        lines = _lines(sys.stdin.buffer, "standard input")
        return ((where, prepare.of_line(line)) for where, line in lines)
    if name.lower().endswith((*TABLES, *LINES)):
        path = Path(name)
        if not os.path.isfile(path):
            raise InputError(Problem(name, "no such file", "a file that exists"))
        return _of_file(path, prepare, column)
    return prepare.named(name, row_files=(*LINES, *TABLES))


def _of_file(path: Path, prepare: Preprocess, column: str) -> Iterator[Named]:
    """Read the rows of a file; the columns of the first one are checked at once."""
    is_text = path.suffix.lower() == ".txt"
    rows = _texts(path) if is_text else _rows(path)
    first = next(rows, None)
    if first is None:
        raise InputError(Problem(str(path), "no rows", "at least one row"))
    if isinstance(first[1], Mapping):
        require_columns(first[1], prepare.columns or (column,), where=str(path))
    return prepare.of_rows(chain([first], rows), path.parent, column)


def _texts(path: Path) -> Iterator[Named]:
    with path.open("rb") as file:
        yield from _lines(file, str(path))


def _rows(path: Path) -> Iterator[Named]:
    """Read the rows of a table in chunks."""
    if path.suffix.lower() == ".jsonl":
        yield from ((where, parse_record(line)) for where, line in _texts(path))
        return
    reader = parquet if path.suffix.lower() in parquet.SUFFIXES else csv
    number = 0
    try:
        for batch in reader.batches(path):
            for start in range(0, batch.num_rows, CHUNK):
                for row in batch.slice(start, CHUNK).to_pylist():
                    yield f"{path}, row {number}", row
                    number += 1
    except InputError:
        raise
    # pyarrow and its decoders raise many exception types on invalid files.
    except Exception as error:
        fix = f"It could not be read: {type(error).__name__}: {str(error)[:500]}"
        raise InputError(Problem(str(path), "an invalid file", "a file of rows", fix)) from error


CHUNK = 256
"""The number of rows that are converted to Python values at once."""


def _lines(file: BinaryIO, where: str) -> Iterator[tuple[str, str]]:
    """Read the lines that are not empty."""
    for number, line in enumerate(file, start=1):
        place = f"{where}, line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(Problem(place, str(error), "text in UTF-8")) from error
        if text.strip():
            yield place, text
