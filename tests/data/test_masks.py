"""Masks are read, checked and placed as their images, and move with them in augmentation."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.data.label import UNLABELLED, Spatial
from limbeck.data.load import Data
from limbeck.data.modalities.image import AugmentSpec, ImagePreprocess
from limbeck.data.modalities.image._augment import ImageAugmentation
from limbeck.errors import InputError, LimbeckError

Read = Callable[..., Data]
ROWS, SIZE = 24, (6, 8)
CLASSES = ("ground", "tree", "car")


def _encode(pixels: Any, mode: str = "L") -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    if mode == "P":
        image = Image.fromarray(np.asarray(pixels, dtype=np.uint8), mode="L").copy()
        palette = Image.new("P", image.size)
        palette.putpalette(list(np.random.default_rng(0).permutation(768) % 256))
        palette.putdata(image.tobytes())
        image = palette
    image.save(file, "PNG")
    return file.getvalue()


def _mask(row: int) -> np.ndarray:
    """Return a mask with every class, and the ignored value 255 in one corner."""
    mask = np.random.default_rng(row).integers(0, len(CLASSES), SIZE)
    mask[0, 0] = 255
    return mask


def _write(path: Path, masks: list[Any]) -> None:
    images = [np.random.default_rng(100 + row).integers(0, 256, (*SIZE, 3)) for row in range(ROWS)]
    rows = {"image": [_encode(one) for one in images], "mask": masks}
    datasets.Dataset.from_dict(rows).to_parquet(path)


@pytest.fixture
def street(tmp_path: Path, read: Read) -> Callable[..., Data]:
    """Return a function that loads images with masks, of which the last are replaced."""

    def load(*last: bytes, mode: str = "L", **settings: Any) -> Data:
        masks = [_encode(_mask(row), mode) for row in range(ROWS - len(last))]
        _write(tmp_path / "a.parquet", [*masks, *last])
        given = {"masks": {"classes": CLASSES}, **settings}
        return read(source="parquet", files={"train": "a.parquet"}, **given)

    return load


@pytest.mark.parametrize("mode", ["L", "P"])
def test_labels_are_the_numbers_and_ignored_pixels_are_minus_100(
    street: Callable[..., Data], mode: str
) -> None:
    data = street(mode=mode)
    assert (data.classes, data.label_kind) == (CLASSES, "masks")
    assert data.preprocess.classes == CLASSES
    known = {np.where(_mask(row) == 255, -100, _mask(row)).tobytes() for row in range(ROWS)}
    for split in (data.train, data.validation, data.test):
        labels = split.__getitems__(range(len(split)))["labels"]
        assert labels.dtype == torch.int64
        assert {one.numpy().tobytes() for one in labels} <= known
    counts = data.train.class_counts(len(CLASSES))
    labels = data.train.__getitems__(range(len(data.train)))["labels"]
    assert counts == [int((labels == number).sum()) for number in range(len(CLASSES))]
    assert len(data.train) + len(data.validation) + len(data.test) == ROWS


def test_large_masks_are_decoded_batch_by_batch(
    street: Callable[..., Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = next(street().train.batches(9))["labels"]
    monkeypatch.setattr("limbeck.data.labels.masks.KEPT_UNDER", 1)
    assert torch.equal(next(street().train.batches(9))["labels"], kept)


def test_masks_are_resized_by_the_nearest_pixel(street: Callable[..., Data]) -> None:
    small = street(image={"size": 4}).train
    large = next(street().train.batches(3))["labels"]
    labels = next(small.batches(3))["labels"]
    assert labels.shape == (3, 4, 4)
    for before, after in zip(large, labels, strict=True):
        resized = Image.fromarray(before.numpy().astype(np.uint8)).resize((4, 4), 0)
        assert np.array_equal(np.asarray(resized), after.numpy().astype(np.uint8))


def test_without_names_the_numbers_of_train_are_the_classes(street: Callable[..., Data]) -> None:
    data = street(masks={"ignore": 255})
    assert data.classes == ("0", "1", "2")
    assert any("pixels of all masks are ignored (value 255)" in note for note in data.facts.notes)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (_encode(np.full(SIZE, 7)), "row 23: got 'the value 7 in 48 pixels'; allowed: 0 to 2"),
        (_encode(np.zeros((*SIZE, 3))), "row 23: got 'an image of mode RGB'; allowed: a grey or"),
        (_encode(np.zeros((3, 3))), "row 23 of train"),
        (b"no image", "row 23: got 'no known format'"),
    ],
)
def test_invalid_masks_are_refused_by_row(
    street: Callable[..., Data], mask: bytes, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        street(mask)
    assert message in str(caught.value)


def test_every_invalid_mask_is_listed(street: Callable[..., Data]) -> None:
    with pytest.raises(InputError) as caught:
        street(_encode(np.full(SIZE, 7)), _encode(np.full(SIZE, 9)))
    assert len(caught.value.problems) == 2


def test_a_class_that_only_the_test_has_is_refused(tmp_path: Path, read: Read) -> None:
    _write(tmp_path / "a.parquet", [_encode(np.zeros(SIZE))] * ROWS)
    _write(tmp_path / "b.parquet", [_encode(np.ones(SIZE))] * ROWS)
    files = {"train": "a.parquet", "test": "b.parquet"}
    with pytest.raises(InputError, match="no pixel of tree, which another split has"):
        read(source="parquet", files=files, masks={"classes": ["ground", "tree"]})


def test_masks_need_images_and_are_no_tensor(street: Callable[..., Data]) -> None:
    with pytest.raises(LimbeckError, match="read `labels` of the batches"):
        _ = street().train.labels
    with pytest.raises(Exception, match=r"masks and classes are given"):
        street(classes=["a", "b"])


SPECS = [
    {"crop": 2},
    {"flip": True},
    {"shift": 1},
    {"crop": 1, "flip": True, "shift": 2},
]


@pytest.mark.parametrize("settings", SPECS)
def test_a_mask_that_equals_a_channel_stays_equal(settings: dict[str, Any]) -> None:
    """Beyond an edge a channel has the fill value, and the mask ignored pixels."""
    rows = torch.arange(40)
    values = torch.randint(0, 5, (40, *SIZE), generator=torch.Generator().manual_seed(0))
    batch = {"image": values[:, None].float().repeat(1, 2, 1, 1), "labels": values}
    prepare = ImagePreprocess(SIZE, 2, 1.0, (-float(UNLABELLED),) * 2, (1.0,) * 2)
    augmentation = ImageAugmentation(AugmentSpec(**settings), prepare)
    for view in range(3):
        moved = augmentation(batch, rows, seed=5, view=view, spatial=[Spatial("labels", "mask")])
        assert torch.equal(moved["image"][:, 1].long(), moved["labels"])
        assert not torch.equal(moved["labels"], values)
    assert torch.equal(batch["labels"], values)


@pytest.mark.parametrize("settings", SPECS)
def test_a_box_stays_around_what_it_encloses(settings: dict[str, Any]) -> None:
    height, width = SIZE
    random = np.random.default_rng(1)
    count = 60
    left, top = random.integers(0, width - 2, count), random.integers(0, height - 2, count)
    right = left + random.integers(1, width - left + 1)
    bottom = top + random.integers(1, height - top + 1)
    image = np.zeros((count, 1, height, width), np.float32)
    for row in range(count):
        image[row, 0, top[row] : bottom[row], left[row] : right[row]] = 1
    boxes = torch.tensor(np.stack([left, top, right, bottom], axis=1)).float()
    padded = torch.cat([boxes[:, None], torch.zeros(count, 1, 4)], dim=1)
    classes = torch.tensor([[3, UNLABELLED]]).repeat(count, 1)
    batch = {"image": torch.from_numpy(image), "boxes": padded, "labels": classes}
    prepare = ImagePreprocess(SIZE, 1, 1.0, (0.0,), (1.0,))
    augmentation = ImageAugmentation(AugmentSpec(**settings), prepare)
    spatial = [Spatial("boxes", "boxes", classes="labels")]
    moved = augmentation(batch, torch.arange(count), seed=2, view=0, spatial=spatial)
    for row in range(count):
        inside = moved["image"][row, 0].nonzero()
        label = int(moved["labels"][row, 0])
        assert label == (3 if len(inside) else UNLABELLED)
        assert int(moved["labels"][row, 1]) == UNLABELLED
        if len(inside):
            (y0, x0), (y1, x1) = inside.min(dim=0).values, inside.max(dim=0).values + 1
            assert moved["boxes"][row, 0].tolist() == [x0, y0, x1, y1]
    assert not torch.equal(moved["boxes"], padded)


def test_batches_of_a_split_move_image_and_mask_together(tmp_path: Path, read: Read) -> None:
    masks = [_mask(row) % 255 for row in range(ROWS)]
    rows = {"image": [_encode(one) for one in masks], "mask": [_encode(one) for one in masks]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    settings = {"image": {"mean": [0.0], "std": [1.0]}, "augment": {"shift": 2, "flip": True}}
    files = {"train": "a.parquet"}
    data = read(source="parquet", files=files, masks={"classes": CLASSES}, **settings)
    batch = data.train.__getitems__(range(len(data.train)))
    values = (batch["image"][:, 0] * 255).round().long()
    inside = batch["labels"] != UNLABELLED
    assert torch.equal(values[inside], batch["labels"][inside])
    assert not inside.all()
    plain = next(data.train.batches(len(data.train)))
    assert (plain["labels"] != UNLABELLED).all()
