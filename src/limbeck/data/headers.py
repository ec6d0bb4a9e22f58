"""Headers of encoded images: size, channels and a hash of the bytes, without decoding."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.images import (
    ORIENTATION,
    REPLACE,
    ROTATED,
    SIDEWAYS,
    channels_of,
    decode,
    size_of,
    traits_of,
    with_file,
)
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from limbeck.data.images import EncodedImages

AT_ONCE, MOST_BYTES = 128, 2**29


@dataclass(frozen=True)
class Header:
    """The size and channels that an encoded image states in its header, and a hash of its bytes.

    Attributes:
        digest: A hash of the encoded bytes, 32 bytes.
        size: The height and width, after the EXIF orientation.
        channels: 1 for grey, 3 for colour.
        traits: The properties that are lost or changed in conversion to pixels.
    """

    digest: bytes
    size: tuple[int, int]
    channels: int
    traits: tuple[str, ...]


Found = tuple[int, Header | InputError]


def headers(encoded: EncodedImages, *, verify: bool, threads: int) -> Iterator[Found]:
    """Read the header of each image in the order of the rows; an error in its place.

    Args:
        encoded: The images.
        verify: Whether to decode the pixels as well, which finds truncated files.
        threads: The number of threads.
    """
    read = partial(_read, encoded, verify=verify)
    with ThreadPoolExecutor(threads) as pool:
        cells = encoded.stored()
        while chunk := list(islice(cells, AT_ONCE)):
            # One task per thread: a task per image would cost as much as its header.
            parts = [chunk[start::threads] for start in range(threads)]
            found = map(read, parts) if threads == 1 else pool.map(read, parts)
            yield from sorted(chain(*found), key=lambda one: one[0])


def _read(encoded: EncodedImages, cells: Sequence[tuple[int, Any]], *, verify: bool) -> list[Found]:
    found: list[Found] = []
    for row, cell in cells:
        try:
            where = encoded.place(row)
            header = read_header(cell, folder=encoded.folder, where=where, verify=verify)
            encoded.check_size(row, header.size)
        except InputError as error:
            found.append((row, error))
        else:
            found.append((row, header))
    return found


def read_header(
    cell: Any, *, folder: Path = Path(), where: str = "image", verify: bool = False
) -> Header:
    """Read the header of an encoded image, and hash its bytes.

    Args:
        cell: Encoded bytes, a path, or a mapping with `bytes` or `path`.
        folder: The folder for relative paths.
        where: The place of the image, for messages.
        verify: Whether to decode the pixels as well.

    Raises:
        InputError: The image is missing, its header cannot be read, or it is too large.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("L", (3, 2)).save(file, "PNG")
        >>> read_header(file.getvalue()).size
        (2, 3)
    """
    where = with_file(where, cell)
    if isinstance(cell, dict):
        cell = cell["bytes"] if cell.get("bytes") is not None else cell.get("path")
    if cell is None:
        raise InputError(Problem(where, "no image", "an image in every row"))
    if isinstance(cell, str):
        cell = _bytes_of(os.path.join(folder, cell), where)
    image = decode(cell, folder, where, pixels=verify)
    size, traits = size_of(image), traits_of(image)
    if not verify:
        # PIL decodes a PNG to find its orientation.
        may_turn = image.format != "PNG" or b"eXIf" in cell or b"exif" in cell
        orientation = image.getexif().get(ORIENTATION, 1) if may_turn else 1
        size = (size[1], size[0]) if orientation in SIDEWAYS else size
        traits = (*traits, ROTATED) if orientation != 1 else traits
    digest = hashlib.blake2b(cell, digest_size=32).digest()
    return Header(digest, size, channels_of(image), traits)


def _bytes_of(path: str, where: str) -> bytes:
    try:
        status = os.stat(path)
        # Reading a device or a pipe may never end.
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError
        if status.st_size <= MOST_BYTES:
            with open(path, "rb") as file:
                return file.read()
        given = f"a file of {status.st_size:,} bytes"
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        given = "no such file" if missing else f"a file that cannot be read ({error})"
    raise InputError(Problem(where, given, f"an image of at most {MOST_BYTES:,} bytes", REPLACE))
