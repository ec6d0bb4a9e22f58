"""Reading of untrusted files: regular files only, up to a size limit."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, Problem


def read_bytes(path: Path, *, limit: int, where: str = "", allowed: str = "") -> bytes:
    """Read a regular file of at most `limit` bytes.

    A device, a pipe or a folder is rejected without reading it, so that the call never blocks.

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
        # Opening a pipe without a writer would block; reading a device would never end.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(Problem(where, "not a regular file", allowed))
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(Problem(where, reason, allowed)) from error
    if len(content) > limit:
        raise InputError(Problem(where, f"more than {limit:,} bytes", allowed))
    return content


def read_text(path: Path, *, limit: int, where: str = "") -> str:
    """Read a regular UTF-8 file of at most `limit` bytes.

    Args:
        path: The file; symbolic links are followed.
        limit: The largest number of bytes allowed.
        where: The name used in messages; the path by default.

    Raises:
        InputError: The file is missing, unreadable, not regular, too large, or not UTF-8.
    """
    content = read_bytes(path, limit=limit, where=where)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(Problem(where or str(path), str(error), "text in UTF-8")) from error


def read_json(path: Path, *, limit: int = 2**26) -> Any:
    """Read a regular JSON file of at most `limit` bytes.

    Args:
        path: The file; symbolic links are followed.
        limit: The largest number of bytes allowed.

    Raises:
        InputError: The file is missing, unreadable, not regular, too large, or not JSON.
    """
    try:
        return json.loads(read_text(path, limit=limit))
    except RecursionError as error:
        raise InputError(Problem(str(path), "nested too deeply", "JSON")) from error
    except ValueError as error:
        raise InputError(Problem(str(path), str(error), "JSON")) from error
