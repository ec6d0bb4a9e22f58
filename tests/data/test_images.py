"""Size and channels follow from all images; each invalid image is named."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from limbeck.data.load import Data
from limbeck.errors import InputError

Read = Callable[..., Data]
ROWS = 20


def _encode(image: Image.Image, form: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def _image(row: int, mode: str = "RGB", size: tuple[int, int] = (6, 6)) -> Image.Image:
    pixels = np.random.default_rng(row).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _write(path: Path, cells: list[Any]) -> None:
    rows = {"image": cells, "label": [row % 2 for row in range(len(cells))]}
    datasets.Dataset.from_dict(rows).to_parquet(path)


@pytest.fixture
def odd(tmp_path: Path, read: Read) -> Callable[..., Data]:
    """Return a function that loads grey images, of which the last are replaced."""

    def load(*last: Any, test: list[Any] | None = None, **settings: Any) -> Data:
        grey = [_encode(_image(row, "L")) for row in range(ROWS - len(last))]
        _write(tmp_path / "train.parquet", [*grey, *last])
        _write(tmp_path / "test.parquet", test or grey)
        files = {"train": "train.parquet", "test": "test.parquet"}
        return read(source="parquet", files=files, **settings)

    return load


def test_one_colour_image_makes_all_have_three_channels(odd: Callable[..., Data]) -> None:
    data = odd(_encode(_image(99)))
    assert data.preprocess.channels == 3
    assert f"{2 * ROWS - 2} of {2 * ROWS - 1} images are grey among images in colour" in (
        data.facts.notes
    )
    in_test = odd(test=[_encode(_image(99))])
    assert next(in_test.train.batches(1))["image"].shape[1] == 3
    stated = odd(_encode(_image(99)), image={"channels": 1})
    assert "1 of 39 images are in colour, converted to grey" in stated.facts.notes


def test_arrays_in_grey_and_in_colour(tmp_path: Path, read: Read) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np, datasets\n"
        "def make():\n"
        "    grey = [np.full((1, 4, 4), n, np.uint8).tolist() for n in range(20)]\n"
        "    colour = [np.full((3, 4, 4), n, np.uint8).tolist() for n in range(4)]\n"
        "    rows = {'image': grey + colour, 'label': [0, 1] * 12}\n"
        "    return datasets.Dataset.from_dict(rows)\n"
        "def make_splits(): return {'train': make()}\n"
    )
    data = read(source="python", name=f"{file}:make_splits")
    assert data.preprocess.channels == 3


@pytest.mark.parametrize(
    ("cell", "note"),
    [
        (_encode(_image(99, "RGBA")), "with transparency"),
        (_encode(_image(99, "LA")), "with transparency"),
        (_encode(_image(99, "CMYK"), "JPEG"), "CMYK, converted to RGB"),
        (
            _encode(_image(99), "GIF", save_all=True, append_images=[_image(98)]),
            "animated, of which the first frame is used",
        ),
    ],
)
def test_lost_properties_of_images_are_noted(
    odd: Callable[..., Data], cell: bytes, note: str
) -> None:
    assert any(f"1 of 39 images are {note}" in one for one in odd(cell).facts.notes)


def test_images_are_rotated_by_their_exif_orientation(odd: Callable[..., Data]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = _image(99, "L", (6, 6))
    rotated = _encode(stored, exif=exif)
    data = odd(test=[rotated] * 2)
    image = next(data.test.batches(1))["image"]
    upright = Image.fromarray(np.rot90(np.asarray(stored), -1).copy())
    for one in (upright, Image.open(io.BytesIO(rotated))):
        assert np.array_equal(image, data.preprocess([one])["image"])
    assert any("rotated by their EXIF" in note for note in data.facts.notes)


def test_every_invalid_image_of_every_split_is_named(odd: Callable[..., Data]) -> None:
    whole = _encode(_image(1, "L", (40, 40)), "JPEG")
    with pytest.raises(InputError) as caught:
        odd(whole[: len(whole) // 2], b"", b"no image", test=[_encode(_image(1)), b"GIF89a"])
    where = [problem.where for problem in caught.value.problems]
    assert [one.rpartition(", ")[2] for one in where] == ["row 17", "row 18", "row 19", "row 1"]
    with pytest.raises(InputError) as caught:
        odd(*[b"bad"] * ROWS, test=[_encode(_image(1))])
    named = [problem for problem in caught.value.problems if "in train" in problem.where]
    assert len(named) >= 10


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (_encode(Image.fromarray(np.full((6, 6), 40_000, np.uint16))), "8 bits a channel"),
        (_encode(_image(0, "L", (6, 7))), "an image of 7x6"),
        (_encode(Image.new("1", (9000, 9000))), "at most 67,108,864 pixels"),
        (_encode(Image.new("1", (20_000, 20_000))), "pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\nshowpage\n", "no known format"),
    ],
)
def test_unusable_images(odd: Callable[..., Data], cell: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        odd(cell)


def test_paths_of_pipes_devices_and_folders_are_no_images(tmp_path: Path, read: Read) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    rows = [("pipe.png", 0), ("/dev/zero", 1), (".", 0), ("missing.png", 1)] * 5
    lines = ["image,label", *(f"{path},{label}" for path, label in rows)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match="an image that PIL can open"):
        read(source="csv", files={"train": "a.csv"})


def test_splits_or_rows_of_other_number_types_are_refused(tmp_path: Path, read: Read) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def make():\n"
        "    train = np.arange(320, dtype=np.uint8).reshape(20, 4, 4)\n"
        "    labels = np.arange(20) % 2\n"
        "    return {'train': (train, labels), 'test': (train / 255, labels)}\n"
    )
    with pytest.raises(InputError, match=r"uint8 in train, .*float32 in test"):
        read(source="python", name=f"{file}:make")


def test_the_content_of_images_given_by_path_is_hashed(
    tmp_path: Path, read: Read, png: Any
) -> None:
    lines = ["image,label", *(f"{row}.png,{row % 2}" for row in range(ROWS))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    for row in range(ROWS):
        (tmp_path / f"{row}.png").write_bytes(png(row))
    first = read(source="csv", files={"train": "a.csv"}).facts.fingerprint
    (tmp_path / "3.png").write_bytes(png(77))
    assert read(source="csv", files={"train": "a.csv"}).facts.fingerprint != first


def test_images_moved_out_of_their_frame(odd: Callable[..., Data]) -> None:
    with pytest.raises(InputError, match=r"crop 3 and shift 3 for images of 6x6"):
        odd(augment={"crop": 3, "shift": 3})
