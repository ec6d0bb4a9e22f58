"""Resolution of data file paths, and the licence stated beside the files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from limbeck.data.settings import SplitName
from limbeck.errors import InputError, Problem, did_you_mean

VARIABLE = "LIMBECK_DATA"


def data_folder() -> Path:
    """Return the folder for relative paths: LIMBECK_DATA, or the current folder."""
    return Path(os.environ.get(VARIABLE) or ".")


def resolve(files: Mapping[SplitName, str | tuple[str, ...]]) -> dict[str, list[Path]]:
    """Resolve the files of each split; a name with `*` matches files in sorted order.

    Raises:
        InputError: Files are missing; the message lists all of them, with the variable and the fix.

    Example:
        >>> resolve({"train": "nowhere/train.parquet"})
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: data.files.train: got 'nowhere/train.parquet'; allowed: ...
    """
    resolved: dict[str, list[Path]] = {split: [] for split in files}
    problems: list[Problem] = []
    for split, names in files.items():
        where = f"data.files.{split}"
        for name in (names,) if isinstance(names, str) else names:
            paths = _matches(name)
            resolved[split] += paths
            if not paths:
                problems.append(_missing(where, name))
            # Reading a device or a pipe may never end.
            irregular = [path for path in paths if not path.is_file() and not path.is_dir()]
            problems += [Problem(where, str(path), "a file or a folder") for path in irregular]
    if problems:
        raise InputError(*problems)
    return resolved


def _matches(name: str) -> list[Path]:
    # An absolute name replaces the folder that it is joined to.
    try:
        path = data_folder() / name
        if path.exists():
            return [path]
        return sorted(path.parent.glob(path.name)) if "*" in path.name else []
    # A name that no file can have: too long, or with a null byte.
    except (OSError, ValueError):
        return []


def _missing(where: str, name: str) -> Problem:
    path = data_folder() / name
    try:
        hint = did_you_mean(path.name, [file.name for file in path.parent.iterdir()])
    except (OSError, ValueError):
        hint = ""
    if Path(name).is_absolute():
        return Problem(where, name, "a file that exists; no such file", hint)
    value = os.environ.get(VARIABLE)
    source = f"{VARIABLE}={value}" if value else f"{VARIABLE} not set"
    allowed = f"a file that exists; no such file: {path.absolute()} ({source})"
    fix = f"Set {VARIABLE} to the folder that holds it, or give an absolute path."
    return Problem(where, name, allowed, f"{hint} {fix}".strip())


def stated_licence(files: Mapping[str, list[Path]]) -> str:
    """Read the licence from the SOURCE.txt beside the files; empty if there is none.

    It is the text after "Licence:" or "Licence as stated:", up to the citation or the line's end.
    """
    for path in (path for paths in files.values() for path in paths):
        source = (path if path.is_dir() else path.parent) / "SOURCE.txt"
        if source.is_file():
            pattern = r"\bLicence[^:\n]*:[ \t]*(.+?)(?:\s*Citation:|$)"
            stated = re.search(pattern, source.read_text(encoding="utf-8"), re.MULTILINE)
            if stated:
                return stated[1].strip().rstrip(".")
    return ""
