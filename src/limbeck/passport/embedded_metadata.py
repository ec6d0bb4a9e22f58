"""Embedded metadata of safetensors and ONNX files, read and written without loading a tensor.

Both formats store metadata beside their tensors: safetensors in the `__metadata__` of the JSON
header (https://huggingface.co/docs/safetensors), ONNX in the `metadata_props` of the model's
protobuf message. A file is handled as a list of byte ranges; writing an entry replaces ranges of
the header and copies the bytes of the tensors unchanged, at any file size.
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
    StatedFacts,
    canonical,
    member,
    strict_json,
)
from limbeck.passport.facts import ModelFacts, PassportFacts
from limbeck.passport.folder import Issue, hash_file, replacing, scan_folder
from limbeck.passport.licences import normalized_licence
from limbeck.passport.lineage import topological
from limbeck.passport.policy import inherit

Segment = bytes | range  # bytes to write, or their range in the file
KEY = "limbeck.passport"  # the key in a file's metadata
# The largest header in bytes, the limit of the safetensors library too.
LARGEST_HEADER = 100_000_000
MOST_FIELDS = 1_000_000  # the most top-level fields of an ONNX message; a model has a few dozen
_BLOCK = 2**20
_METADATA = "__metadata__"
_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}  # bytes of the fields of fixed length, by their kind
_METADATA_PROPS = 14
_IDS = uuid.UUID("0b1f7a0e-8a53-5b52-9a2e-5d1c3f6b7d42")


@dataclass(frozen=True)
class Container:
    """A file that can carry an entry of embedded metadata.

    `bare` is the file without the entry, the same whether or not it ever carried one.
    """

    path: Path
    entry: str | None
    bare: tuple[Segment, ...]
    with_entry: Callable[[str], tuple[Segment, ...]]

    def bare_sha256(self) -> str:
        """Return the SHA-256 of the file without its entry."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            for block in _blocks(file, self.bare):
                digest.update(block)
        return digest.hexdigest()

    def write(self, entry: str) -> None:
        """Write the entry into the file atomically, replacing an earlier one."""
        with self.path.open("rb") as file, replacing(self.path) as target:
            for block in _blocks(file, self.with_entry(entry)):
                target.write(block)


def open_container(path: Path) -> Container | None:
    """Open a file to read or write its entry; return `None` for other file types.

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
            return reader(path, file, os.fstat(file.fileno()).st_size)
    except RecursionError as error:
        raise InputError(Problem(str(path), "too many levels of nesting", allowed)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(Problem(str(path), reason, allowed)) from error


def _safetensors(path: Path, file: BinaryIO, size: int) -> Container:
    (length,) = struct.unpack("<Q", _exactly(file, 8))
    if length > min(LARGEST_HEADER, size - 8):
        raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
    header = strict_json(_exactly(file, length))
    metadata = header.get(_METADATA, {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("the header is not an object with an object of metadata")
    entry = metadata.get(KEY)
    if entry is not None and not isinstance(entry, str):
        raise ValueError(f"{KEY} is not a text")
    tensors = {name: value for name, value in header.items() if name != _METADATA}
    others = {name: value for name, value in metadata.items() if name != KEY}
    data = range(8 + length, size)
    bare = canonical({_METADATA: others, **tensors} if others else tensors).encode()

    def with_entry(text: str) -> tuple[Segment, ...]:
        content = {_METADATA: {**others, KEY: text}, **tensors}
        written = json.dumps(content, separators=(",", ":")).encode()
        # The format requires tensors to begin at a multiple of eight, padded with spaces.
        written += b" " * (-len(written) % 8)
        return (struct.pack("<Q", len(written)) + written, data)

    return Container(path, entry, (bare, data), with_entry)


def _onnx(path: Path, file: BinaryIO, size: int) -> Container:
    entries: list[str] = []
    bare: list[Segment] = []
    start = 0
    for end, content in _fields(file, size):
        entry = _entry(content) if content is not None else None
        if entry is None:
            bare.append(range(start, end))
        else:
            entries.append(entry)
        start = end
    if len(entries) > 1:
        raise ValueError(f"{KEY} is repeated")

    def with_entry(text: str) -> tuple[Segment, ...]:
        content = _field(1, KEY.encode()) + _field(2, text.encode())
        # The fields of a message may be in any order: appending moves nothing.
        return (*bare, _field(_METADATA_PROPS, content))

    return Container(path, entries[0] if entries else None, tuple(bare), with_entry)


def _fields(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield each top-level field's end, and its bytes if it belongs to `metadata_props`."""
    for _ in range(MOST_FIELDS):
        if file.tell() == size:
            return
        number, kind = divmod(_varint(file), 8)
        length = _length(file, kind)
        if number == 0 or length > size - file.tell():
            raise ValueError("a field that extends beyond the file")
        content = None
        if number == _METADATA_PROPS and kind == _LENGTH and length <= _BLOCK:
            content = _exactly(file, length)
        else:
            file.seek(length, os.SEEK_CUR)
        yield file.tell(), content
    raise ValueError(f"more than {MOST_FIELDS:,} fields")


def _length(file: BinaryIO, kind: int) -> int:
    if kind == _LENGTH:
        return _varint(file)
    if kind == _VARINT:
        _varint(file)
    elif kind not in _FIXED:
        raise ValueError(f"a field of kind {kind}, which ONNX has none of")
    return _FIXED.get(kind, 0)


def _varint(file: BinaryIO) -> int:
    value = 0
    for place in range(10):
        byte = _exactly(file, 1)[0]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value
    raise ValueError("a number of more than ten bytes")


def _entry(content: bytes) -> str | None:
    file, parts = BytesIO(content), {1: b"", 2: b""}
    while file.tell() < len(content):
        number, kind = divmod(_varint(file), 8)
        part = _exactly(file, _length(file, kind))
        if number in parts and kind == _LENGTH:
            parts[number] = part
    return parts[2].decode() if parts[1] == KEY.encode() else None


def _field(number: int, content: bytes) -> bytes:
    return _encode_varint(number * 8 + _LENGTH) + _encode_varint(len(content)) + content


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _exactly(file: BinaryIO, length: int) -> bytes:
    content = file.read(length)
    if len(content) != length:
        raise ValueError("the file ends too early")
    return content


def _blocks(file: BinaryIO, segments: Iterable[Segment]) -> Iterator[bytes]:
    for segment in segments:
        if isinstance(segment, bytes):
            yield segment
            continue
        file.seek(segment.start)
        for place in range(segment.start, segment.stop, _BLOCK):
            yield _exactly(file, min(_BLOCK, segment.stop - place))


_READERS = {".safetensors": _safetensors, ".onnx": _onnx}


@dataclass(frozen=True)
class EmbeddedMetadata:
    """A passport's short form, embedded in a model file.

    Attributes:
        name: The student's name.
        id: The student's id, as in its passport: the same facts and weights have the same id.
        roots: Each root teacher's name and the SHA-256 of its weights (empty when not stated).
        licence: The student's licence; empty when not stated.
        risk: Its class of risk; empty when not stated.
        weights_sha256: The hash of this file without the embedded metadata.
    """

    name: str
    id: str
    roots: tuple[tuple[str, str], ...]
    licence: str
    risk: str
    weights_sha256: str

    def text(self) -> str:
        """Return the text stored in a file."""
        return canonical({**vars(self), "roots": [list(root) for root in self.roots]})


def embed_metadata(facts: PassportFacts) -> tuple[str, ...]:
    """Write the passport's short form into every safetensors and ONNX file of a student folder.

    Call it before `build_passport`, with the same facts. It is idempotent. Returns the changed
    files, by their path in the folder.

    Raises:
        InputError: A file is not what its suffix claims, or the facts are invalid.
        LimbeckError: A file could not be written.
    """
    student = student_id(facts)
    risk = inherit(
        facts.risk, topological(facts.teachers), justification=facts.risk_justification
    ).risk
    changed = []
    for name in sorted(scan_folder(facts.folder, exclude=(PASSPORT, SIGNATURE)).files):
        path = facts.folder / name
        if path.is_symlink():
            continue  # the link's target is changed under its own name
        container = open_container(path)
        if container is not None:
            metadata = EmbeddedMetadata(
                name=facts.name,
                id=student,
                roots=roots_of(facts.teachers),
                licence=normalized_licence(facts.licence),
                risk=risk,
                weights_sha256=container.bare_sha256(),
            )
            container.write(metadata.text())
            changed.append(name)
    return tuple(changed)


def read_stamp(path: Path) -> EmbeddedMetadata | None:
    """Read the embedded metadata of a file; return `None` if it carries none.

    Raises:
        InputError: The file is not what its suffix claims, or its metadata is invalid.
    """
    container = open_container(path)
    if container is None or container.entry is None:
        return None
    return parse(container.entry, path.name)


def bare_sha256(path: Path) -> str:
    """Compute the hash of a file without its embedded metadata; an invalid file carries none."""
    try:
        container = open_container(path)
    except InputError:
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
    """Return the root teachers: the models of a lineage without ancestors."""
    roots = (model for model in topological(teachers) if not model.ancestors)
    return tuple(sorted({(model.name, model.digest) for model in roots}))


def parse(text: str, where: str) -> EmbeddedMetadata:
    """Parse embedded metadata from its text; raise an `InputError` if it has another format."""
    try:
        content = strict_json(text)
    except (ValueError, RecursionError) as error:
        raise InputError(Problem(f"{where}: {KEY}", text, "an object in JSON")) from error
    keys = ("name", "id", "licence", "risk", "weights_sha256")
    texts = {key: str(member(content, key, str, KEY)) for key in keys}
    roots = tuple(_root(item, where) for item in member(content, "roots", list, KEY))
    metadata = EmbeddedMetadata(roots=roots, **texts)
    if text != metadata.text():
        raise InputError(Problem(f"{where}: {KEY}", text, "a stamp as limbeck writes it"))
    return metadata


def _root(item: Any, where: str) -> tuple[str, str]:
    pair = isinstance(item, list) and len(item) == 2
    if not pair or not all(isinstance(one, str) for one in item):
        raise InputError(Problem(f"{where}: {KEY}: roots", item, "a name and a hash"))
    return item[0], item[1]


def check_embedded_metadata(
    folder: Path, files: Iterable[str], student: ModelFacts, stated: StatedFacts
) -> Iterator[Issue]:
    """Compare the embedded metadata of a folder's files with its passport.

    A file that is not what its suffix claims carries none, and is no issue here.
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
            container = open_container(folder / name)
        except InputError:
            continue
        if container is None or container.entry is None:
            continue
        try:
            found = vars(parse(container.entry, "header"))
        except InputError as error:
            yield Issue("stamp", name, "a stamp as limbeck writes it", str(error))
            continue
        for key, value in {**expected, "weights_sha256": container.bare_sha256()}.items():
            if found[key] != value:
                listed = f"{key} {value!r}"
                yield Issue("stamp", name, listed, f"{key} {found[key]!r} in its header")
