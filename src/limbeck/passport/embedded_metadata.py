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
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from limbeck.errors import InputError, Problem
from limbeck.passport.document import (
    PASSPORT,
    SIGNATURE,
    Stated,
    canonical,
    member,
    no_constant,
    unique,
)
from limbeck.passport.facts import ModelFacts, PassportFacts
from limbeck.passport.folder import Finding, hash_file, replacing, survey
from limbeck.passport.licences import spelled
from limbeck.passport.lineage import topological
from limbeck.passport.policy import inherit

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
KEY = "limbeck.passport"
"""The stamp's key in a file's metadata."""

_IDS = uuid.UUID("0b1f7a0e-8a53-5b52-9a2e-5d1c3f6b7d42")


@dataclass(frozen=True)
class EmbeddedMetadata:
    """A passport's short form.

    Attributes:
        name: The student's name.
        id: The student's id, as in its passport: the same facts and weights have the same id.
        roots: Each root teacher's name and the SHA-256 of its weights (empty when not stated).
        licence: The student's licence; empty when not stated.
        risk: Its class of risk; empty when not stated.
        weights_sha256: The hash of this file without the stamp.
    """

    name: str
    id: str
    roots: tuple[tuple[str, str], ...]
    licence: str
    risk: str
    weights_sha256: str

    def text(self) -> str:
        """Write the stamp as the text stored in a file."""
        content = {**vars(self), "roots": [list(root) for root in self.roots]}
        return canonical(content)


def embed_metadata(facts: PassportFacts) -> tuple[str, ...]:
    """Write the stamp into every safetensors and ONNX file of a student folder.

    Call it before `build_passport`, with the same facts. It is idempotent.

    Args:
        facts: The facts of the passport.

    Returns:
        The stamped files, by their path in the folder.

    Raises:
        InputError: A file is not what its suffix claims, or the facts are invalid.
        LimbeckError: A file could not be written.
    """
    student = student_id(facts)
    stamped = []
    for name in sorted(survey(facts.folder, apart=(PASSPORT, SIGNATURE)).files):
        path = facts.folder / name
        if path.is_symlink():
            continue  # the link's target is stamped under its own name
        container = open_container(path, KEY)
        if container is not None:
            container.write(_stamp(facts, student, container.bare_sha256()).text())
            stamped.append(name)
    return tuple(stamped)


def read_stamp(path: Path) -> EmbeddedMetadata | None:
    """Read the stamp of a file; return `None` if it carries none.

    Raises:
        InputError: The file is not what its suffix claims, or its stamp is invalid.
    """
    container = open_container(path, KEY)
    return None if container is None or container.note is None else parse(container.note, path.name)


def bare_sha256(path: Path) -> str:
    """Compute the hash of a file without its stamp; of all its bytes if it cannot carry one.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        container = open_container(path, KEY)
    except InputError:  # an invalid file carries no stamp
        container = None
    return hash_file(path).sha256 if container is None else container.bare_sha256()


def student_id(facts: PassportFacts) -> str:
    """Compute a student's id from its name, its teachers and its weights."""
    stated = {
        "name": facts.name,
        "version": facts.version,
        "teachers": sorted([model.name, model.digest] for model in facts.teachers),
        "weights-sha256": bare_sha256(facts.folder / facts.model_file),
    }
    return str(uuid.uuid5(_IDS, canonical(stated)))


def roots_of(teachers: Iterable[ModelFacts]) -> tuple[tuple[str, str], ...]:
    """Return the root teachers: the models of a lineage without ancestors.

    Example:
        >>> roots_of([ModelFacts("base", ancestors=(ModelFacts("large", digest="a" * 4),))])
        (('large', 'aaaa'),)
    """
    eldest = (model for model in topological(teachers) if not model.ancestors)
    return tuple(sorted({(model.name, model.digest) for model in eldest}))


def parse(text: str, where: str) -> EmbeddedMetadata:
    """Parse a stamp from its text.

    Raises:
        InputError: It is not a stamp.

    Example:
        >>> stamp = EmbeddedMetadata("digits", "1", (("large", ""),), "MIT", "", "b" * 64)
        >>> parse(stamp.text(), "model.onnx") == stamp
        True
    """
    try:
        content = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(Problem(f"{where}: {KEY}", text, "an object in JSON")) from error
    texts = {
        key: str(member(content, key, str, KEY))
        for key in ("name", "id", "licence", "risk", "weights_sha256")
    }
    roots = tuple(_root(item, where) for item in member(content, "roots", list, KEY))
    stamp = EmbeddedMetadata(roots=roots, **texts)
    if text != stamp.text():
        raise InputError(Problem(f"{where}: {KEY}", text, "a stamp as limbeck writes it"))
    return stamp


def of_stamps(
    folder: Path, files: Iterable[str], student: ModelFacts, stated: Stated
) -> Iterator[Finding]:
    """Compare the stamps of a folder's files with its passport.

    A file that is not what its suffix claims carries no stamp, and is no finding here.

    Args:
        folder: The student folder.
        files: The files to check, by their path in it.
        student: The student, as described in its passport.
        stated: The other facts of the passport.
    """
    expected = {
        "name": student.name,
        "id": stated.id,
        "roots": roots_of(student.ancestors),
        "licence": student.licence,
        "risk": student.risk,
    }
    for name in sorted(files):
        try:
            container = open_container(folder / name, KEY)
        except InputError:
            continue
        if container is None or container.note is None:
            continue
        try:
            found = vars(parse(container.note, "header"))
        except InputError as error:
            yield Finding("stamp", name, "a stamp as limbeck writes it", str(error))
            continue
        held = {**expected, "weights_sha256": container.bare_sha256()}
        for key, value in held.items():
            if found[key] != value:
                yield Finding(
                    "stamp", name, f"{key} {value!r}", f"{key} {found[key]!r} in its header"
                )


def _root(item: Any, where: str) -> tuple[str, str]:
    if not (
        isinstance(item, list) and len(item) == 2 and all(isinstance(one, str) for one in item)
    ):
        raise InputError(Problem(f"{where}: {KEY}: roots", item, "a name and a hash"))
    return item[0], item[1]


def _stamp(facts: PassportFacts, student: str, weights: str) -> EmbeddedMetadata:
    family = topological(facts.teachers)
    return EmbeddedMetadata(
        name=facts.name,
        id=student,
        roots=roots_of(facts.teachers),
        licence=spelled(facts.licence),
        risk=inherit(facts.risk, family, justification=facts.risk_justification).risk,
        weights_sha256=weights,
    )
