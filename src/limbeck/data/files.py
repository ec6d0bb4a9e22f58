"""Resolution of data file paths, and the licence stated beside the files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from limbeck.data.spec import SplitName
from limbeck.errors import InputError, Problem, did_you_mean

VARIABLE = "LIMBECK_DATA"
DEFAULT = "../shared/data"


def data_folder() -> Path:
    """Return the folder for relative paths: LIMBECK_DATA, or its default."""
    return Path(os.environ.get(VARIABLE) or DEFAULT)


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
    found: dict[str, list[Path]] = {}
    problems: list[Problem] = []
    for split, names in files.items():
        found[split] = []
        for name in (names,) if isinstance(names, str) else names:
            paths = _matches(name)
            found[split] += paths
            if not paths:
                problems.append(_missing(f"data.files.{split}", name))
            # Reading a device or a pipe may never end.
            problems += [
                Problem(f"data.files.{split}", str(path), "a file or a folder")
                for path in paths
                if not path.is_file() and not path.is_dir()
            ]
    if problems:
        raise InputError(*problems)
    return found


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
    relative = not Path(name).is_absolute()
    source = (
        f"{VARIABLE}={os.environ[VARIABLE]}" if os.environ.get(VARIABLE) else f"{VARIABLE} not set"
    )
    near = did_you_mean(path.name, _beside(path))
    fix = (
        f"Set {VARIABLE} to the folder that holds it, or give an absolute path." if relative else ""
    )
    looked = f"no such file: {path.absolute()} ({source})" if relative else "no such file"
    return Problem(
        where, name, f"a file that exists; {looked}", " ".join(filter(None, (near, fix)))
    )


def _beside(path: Path) -> list[str]:
    try:
        return [file.name for file in path.parent.iterdir()]
    except (OSError, ValueError):
        return []


def stated_licence(files: Mapping[str, list[Path]]) -> str:
    """Read the licence from the SOURCE.txt beside the files; empty if there is none.

    It is the text after "Licence:" or "Licence as stated:", up to the citation or the line's end.
    """
    for path in (path for paths in files.values() for path in paths):
        source = (path if path.is_dir() else path.parent) / "SOURCE.txt"
        if source.is_file():
            text = source.read_text(encoding="utf-8")
            stated = re.search(
                r"\bLicence[^:\n]*:[ \t]*(.+?)(?:\s*Citation:|$)", text, re.MULTILINE
            )
            if stated:
                return stated[1].strip().rstrip(".")
    return ""
