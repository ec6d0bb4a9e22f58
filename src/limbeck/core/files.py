"""Atomic file writes.

Every file is written to a temporary path beside the target, flushed to disk and renamed: a process
killed at any moment leaves the old file or the new one, never a partial one.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, LimbeckError, Problem


class WriteError(LimbeckError):
    """A failed write: full disk or read-only folder. Exit code 2, since the user gave the path."""

    exit_code = 2


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends without an error.

    Raises:
        WriteError: Full disk or read-only folder; the old file at `path` is unchanged.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        folder = next((parent for parent in path.parents if parent.exists()), Path("/"))
        writable = "is" if os.access(folder, os.W_OK) else "is not"
        free = f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB free"
        fix = f"{folder} {writable} writable and has {free}; choose another with --out."
        raise WriteError(f"{path}: could not be written ({reason}). {fix}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(place: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces the old one when the block ends without an error.

    Raises:
        WriteError: As for `replacing`.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "student"
        >>> with replacing_folder(target) as made:
        ...     _ = (made / "notes.txt").write_text("whole")
        >>> [path.name for path in target.iterdir()]
        ['notes.txt']
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        near = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
        try:
            made = near / "new"
            made.mkdir()
            yield made
            if place.exists():
                # A folder cannot replace a filled one in one step: the old one is moved away first.
                os.replace(place, near / "old")
            os.replace(made, place)
        finally:
            shutil.rmtree(near, ignore_errors=True)
    except OSError as error:
        raise WriteError(f"{place}: could not be written ({error.strerror or error}).") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write text as UTF-8, atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """Write JSON with sorted keys and an indent of two, atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


@contextmanager
def open_regular(path: str | Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading; a device, a pipe or a folder is rejected without blocking.

    Raises:
        OSError: The file is missing, unreadable, or not a regular file.
    """
    # Opening a pipe without a writer would block; reading a device would never end.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file


def read_bytes(path: Path, *, limit: int, where: str = "", allowed: str = "") -> bytes:
    """Read a regular file of at most `limit` bytes, without blocking on a device or a pipe.

    Args:
        path: The file; symbolic links are followed.
        limit: The largest number of bytes allowed.
        where: The name used in messages; the path by default.
        allowed: The allowed values in messages; a readable file of that size by default.

    Raises:
        InputError: The file is missing, unreadable, not a regular file, or too large.

    Example:
        >>> read_bytes(Path("/dev/zero"), limit=10)
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: /dev/zero: got 'not a regular file'; allowed: a readable file ...
    """
    where = where or str(path)
    allowed = allowed or f"a readable file of at most {limit:,} bytes"
    try:
        with open_regular(path) as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(Problem(where, reason, allowed)) from error
    if len(content) > limit:
        raise InputError(Problem(where, f"more than {limit:,} bytes", allowed))
    return content


def read_text(path: Path, *, limit: int, where: str = "") -> str:
    """Read a regular UTF-8 file of at most `limit` bytes; the arguments are those of `read_bytes`.

    Raises:
        InputError: As for `read_bytes`, or the file is not UTF-8.
    """
    content = read_bytes(path, limit=limit, where=where)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(Problem(where or str(path), str(error), "text in UTF-8")) from error


def read_json(path: Path, *, limit: int = 2**26) -> Any:
    """Read a regular JSON file of at most `limit` bytes.

    Raises:
        InputError: As for `read_text`, or the file is not JSON.
    """
    try:
        return json.loads(read_text(path, limit=limit))
    except RecursionError as error:
        raise InputError(Problem(str(path), "nested too deeply", "JSON")) from error
    except ValueError as error:
        raise InputError(Problem(str(path), str(error), "JSON")) from error
