"""WebDataset archives: tar files whose members of one name are a row: `1.jpg` and `1.cls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.data.files import resolve
from limbeck.data.loaded import Loaded, quiet
from limbeck.data.streaming import Streams, of_files
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    from limbeck.data.spec import DataSpec


def load(spec: DataSpec) -> Loaded:
    """Load the archives of each split; a column is the ending of its members, such as `jpg`.

    Raises:
        InputError: An archive is missing or cannot be read.
    """
    import datasets

    files = resolve(spec.files)
    problems: list[Problem] = []
    splits: dict[str, Any] = {}
    for split, paths in files.items():
        with gathering(problems):
            try:
                with quiet():
                    listed = {split: [str(path) for path in paths]}
                    splits[split] = datasets.load_dataset(
                        "webdataset", data_files=listed, split=split
                    )
            # The library raises errors of many types on invalid archives.
            except Exception as error:
                fix = f"It could not be read: {type(error).__name__}: {str(error)[:500]}"
                given, allowed = ", ".join(map(str, paths)), "tar files of WebDataset"
                raise InputError(Problem(f"data.files.{split}", given, allowed, fix)) from error
    if problems:
        raise InputError(*problems)
    return Loaded(splits, files)


def stream(spec: DataSpec) -> Streams:
    """Return the archives as streams.

    Raises:
        InputError: An archive is missing or cannot be read.
    """
    return of_files(spec, "webdataset")
