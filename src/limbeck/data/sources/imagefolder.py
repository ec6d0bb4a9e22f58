"""Image folders with one folder per class: `train/cat/1.png`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.data.sources._folders import Kind, read_folders

if TYPE_CHECKING:
    from limbeck.data.loaded import Loaded
    from limbeck.data.spec import DataSpec

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".webp", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".tga", ".ico"),
)


def load(spec: DataSpec) -> Loaded:
    """Load the images of each split; the classes are the names of its folders.

    Raises:
        InputError: As for `read_folders`.
    """
    import datasets

    return read_folders(spec, Kind("image", "image", SUFFIXES), datasets.Image())
