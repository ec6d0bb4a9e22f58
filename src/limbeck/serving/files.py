"""Inputs of a student from files, folders, arguments and standard input, in bounded memory."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from limbeck.data.images import FORMATS
from limbeck.data.preprocess import require_columns
from limbeck.data.sources import csv, parquet
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    from limbeck.data.preprocess import Preprocess

STANDARD_INPUT = "-"
LINES = (".txt", ".jsonl")
TABLES = (*csv.SUFFIXES, *parquet.SUFFIXES)
SHOWN = 40
"""The most characters of a text in a message's place."""

Named = tuple[str, Any]
"""The name of an input in messages, and the input."""


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

    An argument is an image or a folder of images; a text, or a `.txt` file with a text per line; or
    a table row as a JSON object. A `.csv`, `.tsv`, `.jsonl` or `.parquet` file has an input per
    row, and `-` is one input per line of standard input. Empty lines are left out.

    Args:
        names: The arguments.
        prepare: The student's preprocessing.
        column: The column of images or texts in files of rows; by default `image` or `text`.

    Raises:
        InputError: Files or columns are missing, or folders hold no image; lists every problem.
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
    path, kind = Path(name), prepare.kind
    if name == STANDARD_INPUT:
        lines = _lines(sys.stdin.buffer, "standard input")
        return ((where, _record(line) if kind == "table" else line) for where, line in lines)
    if name.lower().endswith((*TABLES, *LINES)):
        if not os.path.isfile(path):
            raise InputError(Problem(name, "no such file", "a file that exists"))
        return _of_file(path, prepare, column)
    if kind == "image":
        return [(str(one), str(one)) for one in _images(path)]
    if kind == "text":
        if os.path.exists(name):
            allowed = f"a text, or a file that ends in {', '.join((*LINES, *TABLES))}"
            fix = "To predict the name itself, write it to standard input: -."
            raise InputError(Problem(name, "a file or a folder", allowed, fix))
        return [(name if len(name) <= SHOWN else f"{name[:SHOWN]}...", name)]
    if name.lstrip().startswith("{"):
        return [("row", _record(name))]
    endings = ", ".join((*TABLES, ".jsonl"))
    allowed = f"a row as a JSON object, a file that ends in {endings}, or - for standard input"
    raise InputError(Problem("INPUTS", name, allowed))


def _images(path: Path) -> list[Path]:
    """Return the image itself, or all images of a folder and its subfolders."""
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise InputError(Problem(str(path), "no such file", "an image, or a folder of images"))
    from PIL import Image

    known = {end for end, kind in Image.registered_extensions().items() if kind in FORMATS}
    found = sorted(one for one in path.rglob("*") if one.suffix.lower() in known and one.is_file())
    if not found:
        raise InputError(Problem(str(path), "no image in it", "a folder of images"))
    return found


def _of_file(path: Path, prepare: Preprocess, column: str) -> Iterator[Named]:
    """Read the rows of a file; the columns of the first one are checked at once."""
    is_text = path.suffix.lower() == ".txt"
    rows = _texts(path) if is_text else _rows(path)
    first = next(rows, None)
    if first is None:
        raise InputError(Problem(str(path), "no rows", "at least one row"))
    if isinstance(first[1], Mapping):
        require_columns(first[1], prepare.columns or (column,), where=str(path))
    for_row = chain([first], rows)
    if prepare.columns:
        return for_row
    return ((where, _cell(row, column, path.parent, prepare)) for where, row in for_row)


def _cell(row: Any, column: str, folder: Path, prepare: Preprocess) -> Any:
    """Return a row's image or text; a relative path of an image starts at the file's folder."""
    value = row.get(column) if isinstance(row, Mapping) else row
    return str(folder / value) if prepare.kind == "image" and isinstance(value, str) else value


def _texts(path: Path) -> Iterator[Named]:
    with path.open("rb") as file:
        yield from _lines(file, str(path))


def _rows(path: Path) -> Iterator[Named]:
    """Read the rows of a table in chunks."""
    if path.suffix.lower() == ".jsonl":
        yield from ((where, _record(line)) for where, line in _texts(path))
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


def _record(line: str) -> Any:
    """Parse JSON; return other text unchanged, which is no row and raises when it is used."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line
