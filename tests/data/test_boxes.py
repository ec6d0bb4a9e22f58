"""Boxes from two columns: read, checked, placed as their image, and moved with it."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from limbeck.data.load import load
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError

HEIGHT, WIDTH = 40, 60
BOXES = [
    [[0, 0, 30, 20], [50, 30, 70, 45]],
    [],
    [[10, 10, 20, 20], [5, 5, 5, 9]],
    [[30, 0, 60, 40]],
]
NAMES = [["cell", "plate"], [], ["cell", "cell"], ["plate"]]
SPLITS = ["train", "val", "train", "test"]


def encoded(boxes):
    """Draw an image that is white in its first box and black elsewhere."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x1, y1, x2, y2 in boxes[:1]:
        pixels[y1:y2, x1:x2] = 255
    pixels[-1, len(boxes)] = 7  # no two images are equal
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def loaded(tmp_path, *, cells=BOXES, labels=NAMES, splits=SPLITS, **settings):
    images = [encoded(own) for own in BOXES]
    rows = {"image": images, "boxes": cells, "labels": labels, "part": splits}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    spec = {
        "source": "parquet",
        "files": {"train": str(tmp_path / "rows.parquet")},
        "split_column": "part",
        "image": {"mean": [0.0], "std": [1.0]},
        **settings,
        "boxes": {"classes": ["cell", "plate"], **settings.get("boxes", {})},
    }
    return load(DataSpec.model_validate(spec), workdir=tmp_path)


def test_boxes_are_read_clipped_and_padded(tmp_path):
    data = loaded(tmp_path)
    assert data.classes == ("cell", "plate")
    assert (len(data.train), len(data.validation), len(data.test)) == (2, 1, 1)
    batch = data.train.__getitems__([0, 1])
    assert batch["labels"].tolist() == [[0, 1], [0, -100]]
    assert batch["boxes"].tolist() == [
        [[0, 0, 30, 20], [50, 30, 60, 40]],
        [[10, 10, 20, 20], [0, 0, 0, 0]],
    ]
    empty = data.validation.__getitems__([0])
    assert empty["labels"].shape == (1, 0)
    assert empty["boxes"].shape == (1, 0, 4)
    assert data.train.class_counts(2) == [2, 1]
    assert "1 boxes without area are left out" in data.facts.notes
    assert "train: 3 boxes, validation: 0 boxes, test: 1 boxes" in data.facts.notes
    assert data.label_kind == "boxes"


def test_boxes_are_placed_as_their_image(tmp_path):
    batch = loaded(tmp_path, image={"size": 30, "mean": [0.0], "std": [1.0]}).train.__getitems__(
        [0]
    )
    assert batch["image"].shape == (1, 1, 30, 30)
    assert batch["boxes"][0, 0].tolist() == [0, 0, 15, 15]
    assert batch["image"][0, 0, :15, :15].min() > 0.4
    assert batch["image"][0, 0, 16:29, 16:].max() == 0


def test_boxes_that_are_cropped_away_are_left_out(tmp_path):
    image = {
        "size": 40,
        "resize": {"shorter_side": 40},
        "crop": "centre",
        "mean": [0.0],
        "std": [1.0],
    }
    data = loaded(tmp_path, image=image)
    batch = data.train.__getitems__([0, 1])
    assert batch["boxes"][0].tolist() == [[0, 0, 20, 20]]
    assert batch["labels"].tolist() == [[0], [0]]
    assert batch["image"][0, 0, :20, :20].min() == 1
    stored = data.preprocess.restore_boxes(np.array([[0, 0, 20, 20]]), (HEIGHT, WIDTH))
    assert stored.tolist() == [[10, 0, 30, 20]]


def test_boxes_move_with_their_image(tmp_path):
    train = loaded(tmp_path, augment={"flip": True, "shift": 8}).train
    seen = set()
    for epoch in range(20):
        train.set_epoch(epoch)
        batch = train.__getitems__([0, 1])
        for image, boxes in zip(batch["image"], batch["boxes"], strict=True):
            x1, y1, x2, y2 = map(int, boxes[0])
            assert image[0, y1:y2, x1:x2].min() == 1
            assert int((image == 1).sum()) == (y2 - y1) * (x2 - x1)
            seen.add((x1, y1))
    assert len(seen) > 10


def test_labels_are_numbers_or_names(tmp_path):
    by_number = loaded(tmp_path, labels=[[0, 1], [], [0, 0], [1]])
    assert by_number.train.__getitems__([0])["labels"].tolist() == [[0, 1]]
    unnamed = loaded(tmp_path, labels=[[0, 1], [], [0, 0], [1]], boxes={"classes": None})
    assert unnamed.classes == ("0", "1")


def test_boxes_with_a_size_are_those_with_corners(tmp_path):
    sizes = [[[x, y, x2 - x, y2 - y] for x, y, x2, y2 in own] for own in BOXES]
    found = loaded(tmp_path, cells=sizes, boxes={"form": "xywh"}).train.__getitems__([0])
    assert found["boxes"].tolist() == [[[0, 0, 30, 20], [50, 30, 60, 40]]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"cells": [[[0, 0, 9, 9], [1, 2, 3]], [], BOXES[2], BOXES[3]]},
            r"data\.boxes\.column \('boxes' in train\), row 0: got .*allowed: a list of four",
        ),
        (
            {"cells": [BOXES[0], None, BOXES[2], BOXES[3]], "labels": NAMES},
            r"'boxes' in validation\), row 0: got 'no list'.*an empty list",
        ),
        (
            {"cells": [BOXES[0], [], [[10, 10, 20, 20], [9, 9, 3, 3]], BOXES[3]]},
            r"row 1: got 'the corners \[9\.0, 9\.0, 3\.0, 3\.0\]'.*boxes\.form: xywh",
        ),
        (
            {"cells": [BOXES[0], [], [[10, 10, 20, 20], [70, 5, 80, 9]], BOXES[3]]},
            r"row 1 of train\): got 'a box \[70.*allowed: boxes in its image of 40x60",
        ),
        (
            {"labels": [["cell"], [], ["cell", "cell"], ["plate"]]},
            r"data\.boxes\.labels \('labels' in train\), row 0: got '1 labels'; allowed: 2",
        ),
        (
            {"labels": [["cell", "plat"], [], ["cell", "cell"], ["plate"]]},
            r"data\.boxes\.labels \('labels' in train\): got .*did you mean \"plate\"",
        ),
        (
            {"cells": [[BOXES[0][0], [50, 30, 50, 40]], *BOXES[1:]]},
            r"data\.boxes \(train\): got 'no box of plate, which another split has'",
        ),
        (
            {"splits": ["train", "eval", "train", "test"]},
            r"data\.split_column .*got \"'eval' in row 1",
        ),
    ],
)
def test_invalid_boxes_are_refused_with_their_row(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        loaded(tmp_path, **given)
