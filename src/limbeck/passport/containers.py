"""Embedded metadata of safetensors and ONNX files, read and written without loading a tensor.

Both formats store metadata beside their tensors: safetensors in the `__metadata__` of the JSON
header (https://huggingface.co/docs/safetensors), ONNX in the `metadata_props` of the model's
protobuf message. A file is handled as a list of byte ranges; writing a note replaces ranges of the
header and copies the bytes of the tensors unchanged, at any file size.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from limbeck.errors import InputError, Problem
from limbeck.passport.document import canonical, no_constant, unique
from limbeck.passport.folder import replacing

Piece = bytes | range
"""Bytes to write, or their range in the file."""

LARGEST_HEADER = 100_000_000
"""The largest header in bytes, the limit of the safetensors library too."""

MOST_FIELDS = 1_000_000
"""The most top-level fields of an ONNX message; a model has a few dozen."""

_BLOCK = 2**20
_METADATA = "__metadata__"
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_METADATA_PROPS = 14


@dataclass(frozen=True)
class Container:
    """A file that can carry a note.

    Attributes:
        path: The file.
        note: Its note, if any.
        bare: The file without the note, in one form whether or not it ever carried one.
        noted: Returns the file with a note.
    """

    path: Path
    note: str | None
    bare: tuple[Piece, ...]
    noted: Callable[[str], tuple[Piece, ...]]

    def bare_sha256(self) -> str:
        """Return the SHA-256 of the file without its note."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            for block in _blocks(file, self.bare):
                digest.update(block)
        return digest.hexdigest()

    def write(self, note: str) -> None:
        """Write the note into the file atomically, replacing an earlier note."""
        with self.path.open("rb") as file, replacing(self.path) as target:
            for block in _blocks(file, self.noted(note)):
                target.write(block)


def open_container(path: Path, key: str) -> Container | None:
    """Open a file by its suffix; return `None` if this file type cannot carry notes.

    Args:
        path: The file.
        key: The metadata key of the note.

    Raises:
        InputError: The file is not what its suffix claims.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        return None
    allowed = f"a {path.suffix.removeprefix('.')} file"
    if not path.is_file():  # opening a pipe would block for ever
        raise InputError(Problem(str(path), "no such file", allowed))
    try:
        with path.open("rb") as file:
            return reader(path, file, os.fstat(file.fileno()).st_size, key)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "too many levels of nesting"
        raise InputError(Problem(str(path), reason, allowed)) from error
    except OSError as error:
        raise InputError(Problem(str(path), error.strerror or str(error), allowed)) from error


def _safetensors(path: Path, file: BinaryIO, size: int, key: str) -> Container:
    (length,) = struct.unpack("<Q", _exactly(file, 8))
    if length > min(LARGEST_HEADER, size - 8):
        raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
    header = json.loads(
        _exactly(file, length), object_pairs_hook=unique, parse_constant=no_constant
    )
    metadata = header.get(_METADATA, {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("the header is not an object with an object of metadata")
    note = metadata.get(key)
    if note is not None and not isinstance(note, str):
        raise ValueError(f"{key} is not a text")
    tensors = {name: value for name, value in header.items() if name != _METADATA}
    others = {name: value for name, value in metadata.items() if name != key}
    data = range(8 + length, size)
    plain = canonical({_METADATA: others, **tensors} if others else tensors).encode()

    def noted(text: str) -> tuple[Piece, ...]:
        return (_header({_METADATA: {**others, key: text}, **tensors}), data)

    return Container(path, note, (plain, data), noted)


def _header(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":")).encode()
    # The format requires tensors to begin at a multiple of eight, padded with spaces.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _onnx(path: Path, file: BinaryIO, size: int, key: str) -> Container:
    notes: list[str] = []
    bare: list[Piece] = []
    start = 0
    for end, entry in _fields(file, size):
        note = _note(entry, key) if entry is not None else None
        if note is None:
            bare.append(range(start, end))
        else:
            notes.append(note)
        start = end
    if len(notes) > 1:
        raise ValueError(f"{key} stands twice")

    def noted(text: str) -> tuple[Piece, ...]:
        entry = _field(1, key.encode()) + _field(2, text.encode())
        # The fields of a message may be in any order: appending moves nothing.
        return (*bare, _field(_METADATA_PROPS, entry))

    return Container(path, notes[0] if notes else None, tuple(bare), noted)


def _fields(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield each top-level field's end, and its bytes if it belongs to `metadata_props`."""
    for _ in range(MOST_FIELDS):
        if file.tell() == size:
            return
        number, kind = divmod(_varint(file), 8)
        length = _length(file, kind)
        if number == 0 or length > size - file.tell():
            raise ValueError("a field that leads out of the file")
        entry = None
        if number == _METADATA_PROPS and kind == _LENGTH and length <= _BLOCK:
            entry = _exactly(file, length)
        else:
            file.seek(length, os.SEEK_CUR)
        yield file.tell(), entry
    raise ValueError(f"more than {MOST_FIELDS:,} fields")


def _length(file: BinaryIO, kind: int) -> int:
    if kind == _VARINT:
        _varint(file)
        return 0
    if kind == _LENGTH:
        return _varint(file)
    if kind in (_EIGHT_BYTES, _FOUR_BYTES):
        return 8 if kind == _EIGHT_BYTES else 4
    raise ValueError(f"a field of kind {kind}, which ONNX has none of")


def _varint(file: BinaryIO) -> int:
    value = 0
    for place in range(10):
        byte = _exactly(file, 1)[0]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value
    raise ValueError("a number of more than ten bytes")


def _note(entry: bytes, key: str) -> str | None:
    file, parts = BytesIO(entry), {1: b"", 2: b""}
    while file.tell() < len(entry):
        number, kind = divmod(_varint(file), 8)
        content = _exactly(file, _length(file, kind))
        if number in parts and kind == _LENGTH:
            parts[number] = content
    return parts[2].decode() if parts[1] == key.encode() else None


def _field(number: int, content: bytes) -> bytes:
    return _number(number * 8 + _LENGTH) + _number(len(content)) + content


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _exactly(file: BinaryIO, length: int) -> bytes:
    content = file.read(length)
    if len(content) != length:
        raise ValueError("the file ends too early")
    return content


def _blocks(file: BinaryIO, pieces: Iterable[Piece]) -> Iterator[bytes]:
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        file.seek(piece.start)
        for place in range(piece.start, piece.stop, _BLOCK):
            yield _exactly(file, min(_BLOCK, piece.stop - place))


_READERS = {".safetensors": _safetensors, ".onnx": _onnx}
