"""Parquet files: pictures as encoded bytes or nested lists, or texts, with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.data.sources._files import read

if TYPE_CHECKING:
    from limbeck.data.loaded import Loaded
    from limbeck.data.spec import DataSpec


def load(spec: DataSpec) -> Loaded:
    """Read the Parquet files of each split.

    Raises:
        InputError: A file is missing or is not Parquet.
    """
    return read("parquet", spec)
