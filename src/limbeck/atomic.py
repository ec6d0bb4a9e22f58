"""Files that are there whole or not at all.

Everything that limbeck writes goes to a temporary neighbour first, is flushed to the disk and then
renamed over the target: a process killed at any moment leaves the old file or the new one, never
half of one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError


class WriteError(LimbeckError):
    """A file could not be written: the disk is full, or the folder is not writable.

    The exit code is that of bad input, since the place to write is given by the user.
    """

    exit_code = 2


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends well, it takes the place of `path`.

    Raises:
        WriteError: The disk is full, or the folder cannot be written to. What stood at `path` is
            unharmed.

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
        raise WriteError(f"{path}: could not be written ({reason}). {_advice(path)}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(place: Path) -> Iterator[Path]:
    """Give an empty folder; when the block ends well, it takes the place of the old one.

    Raises:
        WriteError: As `replacing`.

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
                # A folder cannot replace a filled one in one step: the old one steps aside.
                os.replace(place, near / "old")
            os.replace(made, place)
        finally:
            shutil.rmtree(near, ignore_errors=True)
    except OSError as error:
        raise WriteError(f"{place}: could not be written ({error.strerror or error}).") from error


def _advice(path: Path) -> str:
    folder = next((parent for parent in path.parents if parent.exists()), Path("/"))
    free = shutil.disk_usage(folder).free / 2**20
    writable = "is" if os.access(folder, os.W_OK) else "is not"
    return f"{folder} {writable} writable and has {free:.0f} MiB free; choose another with --out."


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys and an indent of two, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")
