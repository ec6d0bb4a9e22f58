"""File locks held by one process; the operating system releases them when it dies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock a file, waiting until it is free, and release it at the end of the block.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "lock"
        >>> with held(path):
        ...     is_held(path)
        True
        >>> is_held(path)
        False
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        _lock(file.fileno(), wait=True)
        yield


def is_held(path: Path) -> bool:
    """Return whether a living process holds the lock of a file."""
    try:
        with path.open("r+") as file:
            return not _lock(file.fileno(), wait=False)
    except FileNotFoundError:
        return False


def _lock(descriptor: int, *, wait: bool) -> bool:
    if sys.platform == "win32":  # pragma: no cover - no advisory locks of this kind there
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
