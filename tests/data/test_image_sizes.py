"""Rectangular sizes, and the resize of the shorter side with a crop from the centre."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from pydantic import ValidationError

from limbeck.data.load import Data
from limbeck.data.modalities.image import ImagePreprocess, ImageSpec
from limbeck.data.preprocess import load
from limbeck.errors import InputError
from limbeck.report.usage import usage

Read = Callable[..., Data]
SIZES = [(9, 14), (20, 11), (12, 12), (8, 31), (17, 8)]
CENTRE = {"size": [6, 7], "resize": {"shorter_side": 8}, "crop": "centre"}


def _image(row: int) -> Image.Image:
    pixels = np.random.default_rng(row).integers(0, 256, (*SIZES[row % 5], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def images(tmp_path: Path, read: Read) -> Callable[..., Data]:
    """Return a function that loads images of five sizes with given settings."""

    def load_it(**settings: Any) -> Data:
        cells = []
        for row in range(30):
            file = io.BytesIO()
            _image(row).save(file, "PNG")
            cells.append(file.getvalue())
        rows = {"image": cells, "label": [row % 3 for row in range(30)], "mask": cells}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
        return read(source="parquet", files={"train": "a.parquet"}, image=settings)

    return load_it


def test_one_number_is_height_and_width(images: Callable[..., Data]) -> None:
    assert images(size=6).preprocess.size == (6, 6)
    data = images(size=[6, 9])
    assert data.train[0]["image"].shape == (1, 3, 6, 9)
    assert data.preprocess.size == (6, 9)


def test_the_pixels_are_those_of_torchvision(images: Callable[..., Data], tmp_path: Path) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    reference = v2.Compose([v2.Resize(8), v2.CenterCrop((6, 7))])
    data = images(**CENTRE)
    for row in range(len(data.test)):
        shown = data.test.raw(row)["image"]
        expected = np.asarray(reference(shown)).transpose(2, 0, 1)
        assert np.array_equal(data.preprocess.pixels(shown), expected)
        inputs = data.preprocess.normalise(expected[None])
        assert torch.equal(data.test[row]["image"], torch.from_numpy(inputs))


def test_the_saved_preprocessing_and_the_card_compute_the_same(
    images: Callable[..., Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = images(**CENTRE)
    data.preprocess.save(tmp_path / "student")
    loaded = load(tmp_path / "student")
    assert loaded == data.preprocess
    prepare = json.loads((tmp_path / "student" / "preprocess.json").read_text())
    assert prepare["shorter_side"] == 8
    snippet = usage("image_classification", "image").split("```python")[1]
    code = snippet[snippet.index("loaded = ") : snippet.index("inputs = {")]
    monkeypatch.chdir(tmp_path)
    for row in range(len(data.test)):
        shown = data.test.raw(row)["image"]
        read = loaded([loaded.read(shown, where="image")])["image"]
        assert np.array_equal(read, data.test[row]["image"].numpy())
        shown.save("image.png")
        names = {"np": np, "Image": Image, "ImageOps": ImageOps, "prepare": prepare}
        exec(code, names)
        np.testing.assert_allclose(names["image"], read, atol=1e-6)


def test_preprocessing_without_a_crop_has_no_further_key(tmp_path: Path) -> None:
    plain = ImagePreprocess((6, 6), 3, 255.0, (0.5,) * 3, (0.5,) * 3)
    plain.save(tmp_path)
    assert "shorter_side" not in json.loads((tmp_path / "preprocess.json").read_text())
    assert plain.fingerprint != ImagePreprocess(**{**vars(plain), "shorter_side": 8}).fingerprint


@pytest.mark.parametrize("stored", SIZES)
def test_masks_and_boxes_are_placed_as_the_image(stored: tuple[int, int]) -> None:
    prepare = ImagePreprocess((6, 7), 1, 255.0, (0.0,), (1.0,), "image", "nearest", shorter_side=8)
    mask = np.random.default_rng(0).integers(0, 9, stored, dtype=np.uint8)
    placed = prepare.place_mask(mask)
    assert np.array_equal(placed, prepare.pixels(Image.fromarray(mask))[0])
    ramp = Image.fromarray(np.arange(stored[1], dtype=np.uint8)[None].repeat(stored[0], axis=0))
    row = prepare.pixels(ramp)[0, 0].astype(float)
    [[left, top, right, bottom]] = prepare.place_boxes(np.array([[2, 1, 6, 5]]), stored)
    inside = np.flatnonzero((row >= 2) & (row < 6)) + 0.5
    assert ((inside >= left - 0.5) & (inside <= right + 0.5)).all()
    assert 0 <= top <= bottom <= 6
    everything = prepare.place_boxes(np.array([[0, 0, stored[1], stored[0]]]), stored)
    assert everything.tolist() == [[0, 0, 7, 6]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize": {"shorter_side": 8}}, "need one another and size"),
        ({"crop": "centre", "size": 4}, "need one another and size"),
        ({**CENTRE, "size": 9}, "size 9 is larger than the shorter side, 8"),
        ({**CENTRE, "crop": "center"}, "'centre'"),
        ({"size": [4]}, "size"),
        ({"size": [4, 5, 6]}, "size"),
        ({"size": [4, 0]}, "greater than 0"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ImageSpec(**settings)
    assert message in str(caught.value)


def test_an_image_that_would_fill_the_memory_is_refused() -> None:
    prepare = ImagePreprocess((6, 6), 1, 255.0, (0.0,), (1.0,), shorter_side=4096)
    with pytest.raises(InputError, match="an image that becomes 4096x4096000"):
        prepare.read(np.zeros((1, 1000), np.uint8), where="image")


def test_a_small_image_with_a_large_shorter_side_is_refused(images: Callable[..., Data]) -> None:
    with pytest.raises(InputError, match=r"data\.image\.resize\.shorter_side: got '3000 for"):
        images(size=6, resize={"shorter_side": 3000}, crop="centre")
