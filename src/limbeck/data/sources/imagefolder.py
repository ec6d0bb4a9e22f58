"""Folders of pictures, one folder a class: `train/cat/1.png`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.data.sources._files import read

if TYPE_CHECKING:
    from limbeck.data.loaded import Loaded
    from limbeck.data.spec import DataSpec


def load(spec: DataSpec) -> Loaded:
    """Read the folders of each split; the classes are the names of the folders in them.

    Raises:
        InputError: A folder is missing or holds no pictures.
    """
    return read("imagefolder", spec)
