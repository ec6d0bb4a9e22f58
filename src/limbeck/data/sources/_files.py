"""What the sources that read files share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.data.files import resolve
from limbeck.data.loaded import Loaded, quiet
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets

    from limbeck.data.spec import DataSpec

IN_MEMORY = 2 * 2**30


def read(builder: str, spec: DataSpec) -> Loaded:
    """Read a spec's files with one of the builders of `datasets`.

    Small files are read into memory by way of a temporary folder, large ones by way of the cache of
    `datasets` in the user's home; nothing is ever written beside the data.

    Raises:
        InputError: A file is missing, cannot be read, or has no rows.
    """
    files = resolve(spec.files)
    size = sum(_size(path) for paths in files.values() for path in paths)
    if size > IN_MEMORY:
        return Loaded(_load(builder, files, cache=None), files)
    with tempfile.TemporaryDirectory(prefix="limbeck-data-") as cache:
        return Loaded(_load(builder, files, cache=cache), files)


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _load(
    builder: str, files: dict[str, list[Path]], *, cache: str | None
) -> dict[str, datasets.Dataset]:
    import datasets

    patterns = {split: [_pattern(path) for path in paths] for split, paths in files.items()}
    try:
        with quiet():
            build = datasets.load_dataset_builder(builder, data_files=patterns, cache_dir=cache)
            build.download_and_prepare()
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        # The cause underneath names what is broken; `datasets` itself only says that it failed.
        cause = error.__cause__ or error
        shown = os.path.commonpath([path for paths in patterns.values() for path in paths])
        fix = f"It could not be read: {type(cause).__name__}: {cause}"
        raise InputError(
            Problem("data.files", shown, f"files that {builder} can read", fix)
        ) from error
    empty = [split for split, info in build.info.splits.items() if info.num_examples == 0]
    if empty:
        problems = (Problem(f"data ({split})", "no rows", "at least one row") for split in empty)
        raise InputError(*problems)
    with quiet():
        return dict(build.as_dataset(in_memory=cache is not None))


def _pattern(path: Path) -> str:
    return str(path.absolute() / "**") if path.is_dir() else str(path.absolute())
