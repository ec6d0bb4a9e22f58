"""Folders of sound files with one folder per class: `train/yes/1.wav`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.data.modalities.audio import SUFFIXES
from limbeck.data.sources._folders import Kind, read_folders

if TYPE_CHECKING:
    from limbeck.data.loaded import Loaded
    from limbeck.data.spec import DataSpec


def load(spec: DataSpec) -> Loaded:
    """Load the sound files of each split; the classes are the names of its folders.

    Raises:
        InputError: As for `read_folders`.
    """
    import datasets

    # Paths: the feature `Audio` of datasets needs torchcodec.
    return read_folders(spec, Kind("sound file", "audio", SUFFIXES), datasets.Value("string"))
