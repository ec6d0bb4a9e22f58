"""Issues of a student folder, and the hash of every file in it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from limbeck.errors import LimbeckError

Kind = Literal[
    "malformed", "schema", "edited", "recipe", "changed", "missing", "added", "escape", "odd",
    "signature", "lineage", "risk", "robustness", "stamp",
]  # fmt: skip
LONGEST = 600  # the most characters of a text that an issue shows
# Files up to this size are hashed even if their size already shows that they were changed.
SMALL = 2**20
SHOWN = 5  # the number of names that a note lists


@dataclass(frozen=True)
class Issue:
    """A deviation of a folder from its passport.

    Attributes:
        kind: `changed`, `missing`, `added`: of a file. `escape`: a name or a link leads out of the
            folder. `odd`: not a plain file, or not readable. `recipe`: its hash does not match.
            `edited`: the passport is not as it was written. `malformed`: it is damaged. `schema`:
            not valid CycloneDX 1.6. `signature`: the signature is missing, is not by the key, or
            was made for other contents. `lineage`: the chain of teachers is inconsistent. `risk`:
            the class of risk is lower than an ancestor's, without a reason. `robustness`: the
            verdict does not follow from the figures. `stamp`: a file's embedded metadata
            contradicts the passport.
        where: The file, or the path in the passport.
        listed: The value in the passport.
        found: The value found.

    Example:
        >>> print(Issue("missing", "model.onnx", "9 bytes", "no such file"))
        missing: 'model.onnx': listed 9 bytes; found no such file
    """

    kind: Kind
    where: str
    listed: str
    found: str

    def __str__(self) -> str:
        texts = (self.where, self.listed, self.found)
        where, listed, found = (
            _printable(text if len(text) <= LONGEST else text[: LONGEST - 3] + "...")
            for text in texts
        )
        if self.kind == "malformed":
            return f"{self.kind}: '{where}': {found}"
        return f"{self.kind}: '{where}': listed {listed}; found {found}"


def _printable(text: str) -> str:
    # Names are untrusted: they must not control a terminal.
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


@dataclass(frozen=True)
class FileHash:
    """The size and the SHA-256 of a file; the hash is empty if the file was not read."""

    sha256: str
    size: int

    def __str__(self) -> str:
        size = f"{self.size:,} bytes"
        return f"{size} with sha256 {self.sha256}" if self.sha256 else f"{size}, not read"


@dataclass(frozen=True)
class Anomaly:
    """A path that cannot be hashed as a file of the folder, and whether it leads out of it."""

    description: str
    escapes: bool = False

    def issue(self, name: str, listed: str) -> Issue:
        """Return the issue of this path."""
        return Issue("escape" if self.escapes else "odd", name, listed, self.description)


@dataclass
class Listing:
    """The contents of a folder: its plain files and everything else, by the path in it.

    `remarks` are properties of files, such as their mode, that a hash does not cover.
    """

    files: dict[str, FileHash] = field(default_factory=dict)
    anomalies: dict[str, Anomaly] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """Return one line for each remark, with the files that it applies to."""
        return [
            f"{remark}: {', '.join(_printable(name) for name in names[:SHOWN])}"
            + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
            for remark, names in self.remarks.items()
        ]


def scan_folder(
    folder: Path, *, exclude: Collection[str], listed: Mapping[str, FileHash] | None = None
) -> Listing:
    """Compute the hash of every file of a folder, except those in `exclude` at its top level.

    Links are followed only to plain files inside the folder. Only plain files are opened: opening a
    pipe would block, and a device has no end. With `listed`, a large file of another size than
    listed is not read, so that the time does not depend on what was added to the folder.
    """
    root = Path(os.path.realpath(folder))
    listing = Listing()
    for name, entry in _walk(root, listing):
        if name in exclude:
            continue
        try:
            anomaly = _anomaly(entry, root, exclude)
            if anomaly is None:
                status = entry.stat()
                size = status.st_size
                expected = listed is None or (name in listed and listed[name].size == size)
                read = expected or size <= SMALL
                path = Path(entry.path)
                listing.files[name] = hash_file(path) if read else FileHash("", size)
                for remark in _remarks(status):
                    listing.remarks.setdefault(remark, []).append(name)
        except OSError as error:
            anomaly = Anomaly(f"cannot be read ({error.strerror or error})")
        if anomaly is not None:
            listing.anomalies[name] = anomaly
    return listing


def hash_file(path: Path) -> FileHash:
    """Compute the hash of a file's bytes without reading it whole into memory."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileHash(digest, file.tell())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to, which replaces `path` if the block ends without an error.

    Unlike `limbeck.core.files.replacing`, this keeps the mode of an existing file.

    Raises:
        LimbeckError: It could not be written; the previous file at `path` is unchanged.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
        if path.exists():
            shutil.copymode(path, temporary)
        else:
            temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise LimbeckError(f"{path}: could not be written ({error.strerror or error}).") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _walk(root: Path, listing: Listing) -> Iterator[tuple[str, os.DirEntry[str]]]:
    pending = [(root, "")]
    while pending:
        folder, prefix = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            reason = error.strerror or error
            listing.anomalies[prefix or "."] = Anomaly(f"cannot be listed ({reason})")
            continue
        for entry in found:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append((folder / entry.name, name + "/"))
            else:
                yield name, entry


def _remarks(status: os.stat_result) -> Iterator[str]:
    if status.st_nlink > 1:
        yield "hard links, which another path outside the folder may write through"
    if os.name == "nt":  # where modes carry little information
        return
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        yield "set-user-id or set-group-id files"
    if status.st_mode & 0o111:
        yield "executable files"
    if status.st_mode & stat.S_IWOTH:
        yield "files that every user may write"


def _anomaly(entry: os.DirEntry[str], root: Path, exclude: Collection[str]) -> Anomaly | None:
    if entry.is_symlink():
        target = Path(os.path.realpath(entry.path))
        if not target.is_relative_to(root):
            return Anomaly(f"a link to {str(target)!r}, outside the folder", escapes=True)
        if not target.is_file() or target in [root / name for name in exclude]:
            return Anomaly("a link to what is not a listed file of the folder")
        return None
    return None if entry.is_file(follow_symlinks=False) else Anomaly("neither a file nor a folder")


def check_files(listed: Mapping[str, FileHash], listing: Listing) -> Iterator[Issue]:
    """Yield every changed, added or missing file, and everything that is not a plain file."""
    for name, anomaly in sorted(listing.anomalies.items()):
        yield anomaly.issue(name, str(listed.get(name, "nothing")))
    for name in sorted(listed.keys() - listing.anomalies.keys()):
        found = listing.files.get(name)
        if found == listed[name]:
            continue
        if found is not None:
            yield Issue("changed", name, str(listed[name]), str(found))
        elif _leads_out(name):
            outside = f"{listed[name]} outside the folder"
            yield Issue("escape", name, outside, "a name that was not followed")
        else:
            yield Issue("missing", name, str(listed[name]), "no such file")
    for name in sorted(listing.files.keys() - listed.keys()):
        yield Issue("added", name, "no such file", str(listing.files[name]))


def _leads_out(name: str) -> bool:
    # By the path rules of every system: a passport may be verified on another than its own.
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", name) is not None
