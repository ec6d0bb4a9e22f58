"""Image columns: encoded bytes, files or arrays."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core import fingerprint
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray
    from PIL import Image

    from limbeck.data.label import Loadable


GREY = {"1", "L", "LA"}
COLOUR = {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
CHUNK = 1000
PATHS_AT_ONCE = 10_000
FORMATS = (
    *("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM"),
    *("PCX", "TGA", "ICO"),
)
"""The image formats that are read. PIL runs a program for others, such as Ghostscript for EPS."""

ORIENTATION, SIDEWAYS = 0x0112, range(5, 9)
ROTATED = "rotated by their EXIF orientation"
REPLACE = "Replace the file, or remove its row."
TRAITS = "limbeck.traits"
MOST_PIXELS = 2**26
"""A larger image is refused as a decompression bomb."""


class EncodedImages:
    """The images of one split, opened one by one or read as one array.

    Args:
        dataset: One of the source's splits.
        rows: The row indices.
        column: The image column.
        folder: The folder for relative paths in the column.
        where: The key in the recipe, for messages.
        size: The required height and width of every image; None if they may differ.
        numbers: The number of each row for messages, by default `rows`.

    Attributes:
        folder: The folder for relative paths.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        rows: NDArray[np.int64],
        column: str,
        *,
        folder: Path | None = None,
        where: str = "data",
        size: tuple[int, int] | None = None,
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        import datasets

        if isinstance(dataset.features[column], datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        self._dataset = dataset.select_columns([column]).with_format(None).select(rows)
        self._rows = rows if numbers is None else numbers
        self._column = column
        self.folder = folder or Path()
        self._where = where
        self._size = size

    def __len__(self) -> int:
        return len(self._dataset)

    def cell(self, row: int) -> Image.Image | NDArray[Any]:
        """Open one image: a PIL image if it is encoded, else a checked array `[c, h, w]`."""
        return self.open(row, self._dataset[row][self._column])

    def cells(self, rows: Sequence[int]) -> Iterator[Image.Image | NDArray[Any]]:
        """Open images one after the other, read from the data set in chunks.

        Raises:
            InputError: An image cannot be opened, or has NaN or values out of range.
        """
        for row, cell in self.stored(rows):
            yield self.open(row, cell)

    def stored(self, rows: Sequence[int] | None = None) -> Iterator[tuple[int, Any]]:
        """Read row indices and cells in chunks, without opening the images."""
        numbers = range(len(self._dataset)) if rows is None else rows
        for start in range(0, len(numbers), CHUNK):
            chunk = numbers[start : start + CHUNK]
            yield from zip(chunk, self._dataset[chunk][self._column], strict=True)

    @property
    def is_encoded(self) -> bool:
        """Return whether the column has encoded images or paths, no arrays."""
        import datasets

        feature = self._dataset.features[self._column]
        kinds = ("string", "large_string", "binary", "large_binary")
        return isinstance(feature, datasets.Image) or getattr(feature, "dtype", None) in kinds

    def open(self, row: int, cell: Any) -> Image.Image | NDArray[Any]:
        """Open a cell read by `stored`, and check it.

        Raises:
            InputError: The image cannot be opened, is too large, or differs in size.
        """
        image = open_image(cell, folder=self.folder, where=self.place(row))
        self.check_size(row, size_of(image))
        return image

    def place(self, row: int) -> str:
        """Return the place of an image for messages: its column, and its row in the source."""
        return f"{self._where}, row {self._rows[row]}"

    def check_size(self, row: int, size: tuple[int, int]) -> None:
        """Raise an error if an image has not the required height and width."""
        if self._size is not None and size != self._size:
            (height, width), (first_height, first_width) = size, self._size
            allowed = f"{first_height}x{first_width} like the first row of train"
            fix = "To resize all images, set data.image.size."
            raise self.error(row, f"an image of {height}x{width}", allowed, fix)

    def error(self, row: int, given: str, allowed: str, fix: str = "") -> InputError:
        """Return the error for an image, with its row number in the source and its file."""
        cell = self._dataset[row][self._column]
        where = with_file(self.place(row), cell)
        return InputError(Problem(where, given, allowed, fix))


def with_file(where: str, cell: Any) -> str:
    """Add the file of a stored image to its place, if it has one."""
    path = cell.get("path") if isinstance(cell, dict) else cell
    named = isinstance(path, str | Path) and path and str(path) != where
    return f"{where} ({path})" if named else where


def open_image(
    cell: Any, *, folder: Path = Path(), where: str = "image"
) -> Image.Image | NDArray[Any]:
    """Open an image: a PIL image if it is encoded, else a checked array `[c, h, w]`.

    Args:
        cell: Encoded bytes, a path, a mapping with `bytes` or `path`, a PIL image, or an array.
        folder: The folder for relative paths.
        where: The place of the image, for messages.

    Raises:
        InputError: The image is missing, cannot be decoded, or is too large.

    Example:
        >>> open_image([[0, 255], [255, 0]]).shape
        (1, 2, 2)
    """
    from PIL import Image

    where = with_file(where, cell)
    if isinstance(cell, dict):
        cell = cell["bytes"] if cell.get("bytes") is not None else cell.get("path")
    if cell is None:
        raise InputError(Problem(where, "no image", "an image in every row"))
    if isinstance(cell, bytes | str | Path | Image.Image):
        return decode(cell, folder, where)
    return _array(cell, where)


def upright(image: Image.Image) -> Image.Image:
    """Rotate an image by its EXIF orientation; return it unchanged if there is none."""
    from PIL import ImageOps

    # Checked first, since PIL would copy each image.
    rotated = image.getexif().get(ORIENTATION, 1) != 1
    return ImageOps.exif_transpose(image) if rotated else image


def decode(
    content: bytes | str | Path | Image.Image, folder: Path, where: str, *, pixels: bool = True
) -> Image.Image:
    """Open an encoded image, turned upright; without `pixels` its header alone is read.

    Raises:
        InputError: The image cannot be opened or decoded, or is too large.
    """
    from PIL import Image, UnidentifiedImageError

    allowed = "an image that PIL can open"
    try:
        # Reading a device or a pipe may never end.
        if isinstance(content, str | Path) and not (folder / content).is_file():
            raise InputError(Problem(where, "no such file", allowed))
        if isinstance(content, Image.Image):
            image = content
        else:
            source = io.BytesIO(content) if isinstance(content, bytes) else folder / content
            with warnings.catch_warnings():
                # Warnings of PIL are errors below.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(source, formats=_formats())
        if image.width * image.height > MOST_PIXELS:
            given = f"an image of {image.height}x{image.width}"
            raise InputError(Problem(where, given, f"at most {MOST_PIXELS:,} pixels"))
        if pixels:
            # Only this reads the pixels, and detects a truncated file.
            image.load()
        rotated = upright(image) if pixels else image
    except InputError:
        raise
    # A decoder may raise any exception on invalid bytes.
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError)
        cause = "no known format" if unknown else str(error) or type(error).__name__
        raise InputError(Problem(where, cause, allowed, REPLACE)) from error
    if rotated.mode not in GREY | COLOUR:
        fix = "Convert it to 8 bits a channel: scale its values to 0..255."
        raise InputError(Problem(where, f"pixels of mode {rotated.mode}", "8 bits a channel", fix))
    traits = {
        ROTATED: rotated is not image,
        "with transparency, which is dropped": "A" in image.mode.removesuffix("LAB")
        or "transparency" in image.info,
        "animated, of which the first frame is used": getattr(image, "n_frames", 1) > 1,
        "CMYK, converted to RGB": image.mode == "CMYK",
    }
    rotated.info[TRAITS] = tuple(trait for trait, present in traits.items() if present)
    return rotated


def without_torch(value: Any) -> Any:
    """Convert a torch tensor to an array; return any other value unchanged.

    Example:
        >>> import torch
        >>> without_torch(torch.ones(2, dtype=torch.bfloat16, requires_grad=True))
        array([1., 1.], dtype=float32)
    """
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    # NumPy has no bfloat16.
    return (value.float() if value.is_floating_point() else value).numpy()


def _array(content: Any, where: str) -> NDArray[Any]:
    def error(given: str, allowed: str) -> InputError:
        return InputError(Problem(where, given, allowed))

    try:
        array = np.asarray(without_torch(content))
    # Lists of unequal lengths, or of tensors with a gradient.
    except (ValueError, TypeError, RuntimeError) as ragged:
        raise error(f"nested lists ({ragged})", "lists of one length") from ragged
    if array.dtype.kind not in "iuf":
        raise error(f"values of {array.dtype}", "numbers")
    if array.dtype.kind in "iu" and array.size and (array.min() < 0 or array.max() > 255):
        given = f"values from {array.min()} to {array.max()}"
        raise error(given, "whole numbers in 0..255, or floats")
    array = array.astype(np.float32 if array.dtype.kind == "f" else np.uint8)
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 and array.shape[0] in (1, 3):
        return array
    if array.ndim == 3 and array.shape[2] in (1, 3):
        return array.transpose(2, 0, 1)
    allowed = "one image: [h, w], [c, h, w] or [h, w, c] with 1 or 3 channels"
    raise error(f"an array of shape {array.shape}", allowed)


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def traits_of(cell: Image.Image | NDArray[Any]) -> tuple[str, ...]:
    """Return the properties that are lost or changed in conversion to pixels, for a report."""
    return () if isinstance(cell, np.ndarray) else tuple(cell.info.get(TRAITS, ()))


def channels_of(cell: Image.Image | NDArray[Any]) -> int:
    """Count the channels of an image: 1 for grey, 3 for colour.

    Example:
        >>> channels_of(np.zeros((3, 8, 8)))
        3
    """
    if isinstance(cell, np.ndarray):
        return int(cell.shape[0])
    return 1 if cell.mode in GREY else 3


def size_of(cell: Image.Image | NDArray[Any]) -> tuple[int, int]:
    """Return an image's height and width.

    Example:
        >>> size_of(np.zeros((3, 8, 6)))
        (8, 6)
    """
    if isinstance(cell, np.ndarray):
        return int(cell.shape[1]), int(cell.shape[2])
    return cell.height, cell.width


def referenced_files(loaded: Loadable, column: str) -> dict[str, str]:
    """Hash the image files that rows reference by path, independent of their folder."""
    hashes: dict[str, str] = {}
    for name, dataset in loaded.splits.items():
        files = loaded.files.get(name, [])
        if column not in dataset.column_names or any(path.is_dir() for path in files):
            continue  # a folder of images is hashed as a whole
        folder = files[0].parent if files else Path()
        cells = dataset.select_columns([column]).with_format("arrow")
        for start in range(0, len(cells), PATHS_AT_ONCE):
            for path in _paths(cells[start : start + PATHS_AT_ONCE].column(0).combine_chunks()):
                if (folder / path).is_file():
                    hashes[path] = fingerprint.of_file(folder / path)
    return hashes


def _paths(cells: Any) -> Iterator[str]:
    """Yield the paths in a column of texts, or of images that have no bytes of their own."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.compute as compute  # type: ignore[import-untyped]

    kind = pyarrow.types
    if kind.is_struct(cells.type) and {"bytes", "path"} <= {field.name for field in cells.type}:
        cells = cells.filter(compute.is_null(compute.struct_field(cells, "bytes")))
        cells = compute.struct_field(cells, "path")
    if kind.is_string(cells.type) or kind.is_large_string(cells.type):
        yield from (name for name in cells.to_pylist() if name)
