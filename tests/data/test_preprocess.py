"""The saved preprocessing can be applied with numpy, PIL and tokenizers alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.data.images import EncodedImages
from limbeck.data.load import Data
from limbeck.data.modalities.image import ImagePreprocess
from limbeck.data.modalities.image import _samples as samples
from limbeck.data.preprocess import load
from limbeck.errors import InputError

Read = Callable[..., Data]


@pytest.fixture
def images(tmp_path: Path, read: Read, png: Any) -> Data:
    content = {"image": [png(row) for row in range(40)], "label": [0, 1] * 20}
    datasets.Dataset.from_dict(content).to_parquet(tmp_path / "a.parquet")
    return read(source="parquet", files={"train": "a.parquet"}, image={"size": 7})


def test_numpy_and_pil_alone_compute_the_same_bits(tmp_path: Path, images: Data) -> None:
    images.preprocess.save(tmp_path / "student")
    saved = json.loads((tmp_path / "student" / "preprocess.json").read_text())
    for row, batch in enumerate(images.test.batches(1)):
        image = images.test.raw(row)["image"].convert(saved["mode"])
        height, width = saved["size"]
        resample = Image.Resampling[saved["resample"].upper()]
        x = np.asarray(image.resize((width, height), resample), dtype=np.float32)
        x = x / np.float32(saved["divide_by"]) - np.array(saved["mean"], dtype=np.float32)
        x = x / np.array(saved["std"], dtype=np.float32)
        assert np.array_equal(batch["image"][0].numpy(), x.transpose(2, 0, 1))


def test_mean_and_deviation_are_those_of_the_training_rows(images: Data) -> None:
    image = next(images.train.batches(1000))["image"]
    assert torch.allclose(image.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(image.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-2)


def test_save_and_load_are_inverse(tmp_path: Path, images: Data) -> None:
    paths = images.preprocess.save(tmp_path)
    assert all(path.is_file() for path in paths)
    assert load(tmp_path) == images.preprocess
    assert load(tmp_path).fingerprint == images.preprocess.fingerprint


def test_a_folder_without_or_with_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"preprocess\.json"):
        load(tmp_path)
    (tmp_path / "preprocess.json").write_text('{"version": 99}')
    with pytest.raises(InputError, match="version 99"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_mean_and_deviation_are_those_of_all_pixels_at_once(keep: bool, dtype: type) -> None:
    rng = np.random.default_rng(3)
    rows = (rng.random((37, 3, 5, 4)) * 200 + 50).astype(dtype)
    table = datasets.Dataset.from_dict({"image": list(rows)}).with_format("numpy")
    images = EncodedImages(table, np.arange(len(rows)), "image")
    shape = ImagePreprocess((5, 4), 3, 1.0, (0.0,) * 3, (1.0,) * 3)
    scanned = samples.scan(images, shape, keep=keep, grey_only=False)
    expected = rows.astype(np.float64)
    np.testing.assert_allclose(scanned.mean, expected.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(scanned.std, expected.std(axis=(0, 2, 3)), rtol=1e-12)


def test_images_are_not_enlarged_beyond_what_memory_is_for(read: Read) -> None:
    with pytest.raises(
        InputError, match=r"data\.image\.size: got .257 for images of 8x8"
    ) as caught:
        read(source="sklearn", name="digits", image={"size": 257})
    assert "at most 256" in str(caught.value)


@pytest.mark.parametrize(("ready", "pixels"), [(1, 2**31), (1, 1)])
def test_held_or_decoded_each_time_the_bits_are_the_same(
    images: Data, read: Read, monkeypatch: pytest.MonkeyPatch, ready: int, pixels: int
) -> None:
    monkeypatch.setattr(samples, "READY_UNDER", ready)
    monkeypatch.setattr("limbeck.data.modalities.image._samples.PIXELS_UNDER", pixels)
    again = read(source="parquet", files={"train": "a.parquet"}, image={"size": 7})
    order = [3, 1, 2]
    assert again.preprocess == images.preprocess
    assert torch.equal(
        again.train.__getitems__(order)["image"], images.train.__getitems__(order)["image"]
    )


def test_a_channel_without_contrast_is_not_divided_by_nothing(tmp_path: Path, read: Read) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import numpy as np\ndef f(): return np.ones((20, 4, 4)), np.arange(20) % 2\n")
    data = read(source="python", name=f"{file}:f")
    assert data.preprocess.std == (1.0,)


def test_given_numbers_are_kept(tmp_path: Path, read: Read, images: Data) -> None:
    image = {"mean": [0.5, 0.5, 0.5], "std": [0.1, 0.2, 0.3]}
    data = read(source="parquet", files={"train": "a.parquet"}, image=image)
    assert data.preprocess.mean == (0.5,) * 3
    assert data.preprocess.std == (0.1, 0.2, 0.3)
    assert data.preprocess.model_inputs() == {"channels": 3}


def test_float_arrays_are_resized_without_rounding() -> None:
    prepare = ImagePreprocess((2, 2), 1, 1.0, (0.0,), (1.0,))
    pixels = prepare.pixels(np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 4, 4))
    assert pixels.dtype == np.float32
    assert pixels.shape == (1, 2, 2)
    assert pixels.mean() == pytest.approx(0.5)


def test_class_names_ship_with_every_kind_of_preprocessing(
    tmp_path: Path, read: Read, png: Any
) -> None:
    rows = {"age": [*range(40)], "text": [f"text {n}" for n in range(40)], "label": [1, 0] * 20}
    table = datasets.Dataset.from_dict({**rows, "image": [png(row) for row in range(40)]})
    table.to_parquet(tmp_path / "a.parquet")
    for kind in ({"table": {"numeric": ["age"]}}, {"text": {}}, {"image": {"size": 4}}):
        data = read(source="parquet", files={"train": "a.parquet"}, classes=["no", "yes"], **kind)
        data.preprocess.save(tmp_path / "student")
        written = json.loads((tmp_path / "student" / "preprocess.json").read_text())
        assert written["classes"] == ["no", "yes"]
        assert load(tmp_path / "student") == data.preprocess
        other = read(source="parquet", files={"train": "a.parquet"}, classes=["a", "b"], **kind)
        assert other.preprocess.fingerprint == data.preprocess.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "allowed: JSON"),
        ("[1]", "a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"version": 1}', "kind"),
        ('{"version": 1, "kind": "video"}', "'image', "),
        ('{"version": 1, "kind": "table", "numeric": 3, "categorical": []}', "numeric"),
        ('{"version": 1, "kind": "text", "pad": 0, "vocab_size": 5, "max_length": 1e12}', "max_le"),
        (
            '{"version": 1, "kind": "image", "size": [1000000000000, 1], "channels": 3, '
            '"divide_by": 0, "mean": [0], "std": [1], "resample": "__class__"}',
            "less than or equal to 4096",
        ),
    ],
)
def test_a_hostile_preprocess_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "preprocess.json").write_text(content)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert message in str(caught.value)
