"""CSV files: texts, or paths of pictures relative to the file's folder, with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.data.sources._files import read

if TYPE_CHECKING:
    from limbeck.data.loaded import Loaded
    from limbeck.data.spec import DataSpec


def load(spec: DataSpec) -> Loaded:
    """Read the CSV files of each split; the first line names the columns.

    Raises:
        InputError: A file is missing or is not CSV.
    """
    return read("csv", spec)
