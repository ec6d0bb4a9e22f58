"""The boxes of a served detector are in pixels of the given image."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from limbeck import InputError, load_student
from limbeck.data.modalities.image._preprocess import ImagePreprocess
from limbeck.export.onnx import embed_classes, to_onnx
from limbeck.tasks.object_detection import ObjectDetection

SIZE, CLASSES = (16, 32), ("bright", "dark")


class Bright(nn.Module):
    """Finds a bright cell of 8x8 pixels by its mean, and its box by the cell's edges."""

    def forward(self, image):
        cells = nn.functional.avg_pool2d(image, 8).flatten(2).transpose(1, 2)
        logits = torch.cat([40 * cells - 20, 0 * cells - 20], dim=-1)
        return {"classes": logits, "box": torch.full_like(cells, 0.5).expand(-1, -1, 4)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    task = ObjectDetection(CLASSES, strides=(8,), detections=5)
    to_onnx(Bright(), task, {"image": torch.zeros(2, 1, *SIZE)}, folder / "model.onnx")
    embed_classes(folder / "model.onnx", CLASSES)
    ImagePreprocess(SIZE, 1, 255.0, (0.0,), (1.0,), classes=CLASSES).save(folder)
    return folder


def drawn_image(*cells, factor=3):
    """Draw bright cells of 8x8 pixels, in an image whose sides are `factor` times the input's."""
    pixels = np.zeros(SIZE, np.uint8)
    for row, column in cells:
        pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
    return Image.fromarray(np.kron(pixels, np.ones((factor, factor), np.uint8)))


def test_boxes_are_in_pixels_of_the_given_image(folder, tmp_path):
    student = load_student(folder)
    found = student.predict(drawn_image((1, 2)))
    assert found.labels == ("bright",)
    assert found.scores[0] > 0.99
    np.testing.assert_allclose(found.boxes, [[48, 24, 72, 48]], atol=1e-4)
    both = student.predict([drawn_image((0, 0), (1, 3), factor=2), drawn_image(factor=1)])
    np.testing.assert_allclose(
        sorted(both[0].boxes.tolist()), [[0, 0, 16, 16], [48, 16, 64, 32]], atol=1e-4
    )
    assert both[1].labels == () == both[1].scores
    assert both[1].boxes.shape == (0, 4)
    drawn_image((1, 2)).save(tmp_path / "cell.png")
    again = student.predict(str(tmp_path / "cell.png"))
    np.testing.assert_array_equal(again.boxes, found.boxes)
    array = np.asarray(drawn_image((1, 2)))
    np.testing.assert_array_equal(student.predict(array).boxes, found.boxes)


def test_detections_are_json_and_a_row(folder):
    student = load_student(folder)
    found = student.predict(drawn_image((1, 2)))
    [one] = json.loads(json.dumps(found.content()))["objects"]
    assert one["label"] == "bright"
    assert one["box"] == pytest.approx([48, 24, 72, 48])
    assert tuple(found.row) == student.columns == ("count", "objects")
    assert found.row == {"count": 1, "objects": "bright 1.00 [48.0, 24.0, 72.0, 48.0]"}
    with pytest.raises(InputError, match="Use predict"):
        student.predict_proba(drawn_image((1, 2)))


def test_a_student_of_a_cropped_image_restores_its_boxes(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    ImagePreprocess(SIZE, 1, 255.0, (0.0,), (1.0,), classes=CLASSES, shorter_side=32).save(tmp_path)
    pixels = np.zeros((64, 64), np.uint8)
    pixels[32:48, 16:32] = 255  # resized to 32x32, of which rows 8 to 24 are kept
    found = load_student(tmp_path).predict(pixels)
    np.testing.assert_allclose(found.boxes, [[16, 32, 32, 48]], atol=1e-4)
