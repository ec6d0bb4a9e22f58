"""A shipped student gets the inputs of the training, bit by bit, from whatever a user has."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import limbeck
from limbeck import InputError, load_student
from limbeck.data.split import Split
from limbeck.export.predictor import OnnxPredictor

ROWS = 20


def served(student: limbeck.Student, raw: list[Any]) -> dict[str, np.ndarray]:
    prepare = student.preprocess
    return prepare([prepare.read(one, where="input") for one in raw])


def same(student: limbeck.Student, raw: list[Any], split: Split) -> None:
    """Check that inputs equal those of the training, and predictions those of the file."""
    batch = {k: v.numpy() for k, v in split.__getitems__(range(len(raw))).items()}
    for name, array in served(student, raw).items():
        assert np.array_equal(array, batch[name]), name
        assert array.dtype == batch[name].dtype
    logits = OnnxPredictor(student.folder / "model.onnx").predict(batch)["logits"]
    expected = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    np.testing.assert_allclose(student.predict_proba(raw), expected, rtol=1e-5)
    found = student.predict(raw, batch_size=3)
    assert [one.label for one in found] == [student.classes[n] for n in expected.argmax(axis=1)]
    assert sum(found[0].probabilities.values()) == pytest.approx(1)
    assert found[0].probability == max(found[0].probabilities.values())


def test_images_of_any_size_mode_and_orientation(images, tmp_path):
    student, split = load_student(images.folder), images.data.test
    cells = [split._samples._encoded._dataset[row]["image"] for row in range(len(split))]
    raw = [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
    same(student, raw, split)
    paths = [tmp_path / f"{row}.png" for row in range(len(raw))]
    for path, content in zip(paths, raw, strict=True):
        path.write_bytes(content)
    same(student, paths, split)
    same(student, [str(path) for path in paths], split)
    same(student, [Image.open(io.BytesIO(content)) for content in raw], split)
    same(student, [{"bytes": content, "path": None} for content in raw], split)


def test_arrays_and_tensors_in_the_scale_of_the_training(digits):
    from sklearn.datasets import load_digits

    student, split = load_student(digits.folder), digits.data.test
    whole = [np.asarray(split._samples._encoded.cell(row)[0]) for row in range(ROWS)]
    for kind in (np.uint8, np.int64, np.float64):
        same(student, [array.astype(kind) for array in whole], split)
    stacked = np.stack(whole)
    assert student.predict(stacked[:, None]) == student.predict(list(whole))
    assert student.predict(torch.tensor(stacked)[:, None]) == student.predict(list(whole))
    assert student.predict(torch.tensor(stacked[0]).bfloat16()) == student.predict(stacked[0])
    assert student.predict(stacked[0]) == student.predict(stacked[:1, None])[0]
    first = load_digits().images[0]
    as_file = Image.fromarray((first * 255 / 16).round().astype(np.uint8))
    assert student.predict(as_file).label == student.predict(first).label


def test_texts_longer_than_the_maximum_are_cut(texts):
    student, split = load_student(texts.folder), texts.data.train
    raw = [split.raw(row)["text"] for row in range(len(split))]
    assert any(len(text.split()) > 8 for text in raw)
    same(student, raw, split)
    same(student, list(pd.Series(raw)), split)
    assert student.predict(pd.Series(raw[:3])) == student.predict(np.array(raw[:3]))
    assert student.predict("good film").label in student.classes


def test_rows_with_missing_and_unknown_values(table):
    student = load_student(table.folder)
    for split in (table.data.train, table.data.test):
        cells = [split._samples._dataset[row] for row in range(len(split))]
        assert any(row["age"] is None for row in cells)
        same(student, cells, split)
        frame = pd.DataFrame(cells)
        frame["age"] = pd.to_numeric(frame["age"])
        assert frame["age"].isna().any()
        assert student.predict(frame) == student.predict(cells)
    assert any(f"rare {row}" not in student.preprocess.categorical[0].values for row in range(80))
    typed = {"age": np.float32(41.5), "job": None, "zip": 1, "more": "ignored"}
    assert student.predict(typed) == student.predict({"age": "41.5", "job": "", "zip": "01"})


def test_a_run_folder_and_a_moved_folder_are_the_same_student(digits, tmp_path):
    image = np.eye(8) * 16
    expected = load_student(digits.folder).predict(image)
    assert load_student(digits.folder.parent).predict(image) == expected
    shutil.copytree(digits.folder, tmp_path / "elsewhere")
    assert load_student(str(tmp_path / "elsewhere"), threads=1).predict(image) == expected


def test_inputs_are_read_batch_by_batch(digits):
    read = 0

    def inputs():
        nonlocal read
        for row in range(100):
            read += 1
            yield f"row {row}", np.eye(8)[:1] if row == 1 else np.eye(8) * 16

    found = load_student(digits.folder).stream(inputs(), batch_size=4)
    assert next(found).label in "0123456789"
    assert read == 4
    kinds = [type(one) for one in found]
    assert read == 100
    assert kinds.count(limbeck.Prediction) == 98  # without the first one and the invalid one


def test_a_student_needs_no_torch(images, texts, table):
    script = "import sys, limbeck\nfor folder in sys.argv[1:4]: limbeck.load_student(folder)\n"
    script += "limbeck.load_student(sys.argv[1]).predict([__import__('numpy').eye(8)*255])\n"
    script += "from limbeck.cli import _app\nrows = [sys.argv[3], sys.argv[4], '--json']\n"
    script += "_app()(['predict', *rows], standalone_mode=False)\n"
    script += "assert not {'torch', 'datasets', 'transformers', 'pandas'} & set(sys.modules)"
    folders = [str(one.folder) for one in (images, texts, table)]
    row = '{"age": 1, "job": "cook", "zip": "01"}'
    subprocess.run([sys.executable, "-c", script, *folders, row], check=True)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no.png", "no such file"),
        (b"nonsense", "no known format"),
        (np.zeros((3, 8, 8)), "got 'an array of 3 channels'; allowed: 1 channel"),
        (np.full((8, 8), 255), "values up to 255'; allowed: values from 0 to 16"),
        (np.full((8, 8), 0.5), "values up to 0.5"),
        (np.full((8, 8), np.nan), "NaN"),
        (np.zeros((0, 0)), "no pixels"),
        (np.zeros((1797, 8, 8)), "one image: "),
        (7, "one image: "),
        ([[torch.ones(2, requires_grad=True)]], "nested lists"),
    ],
)
def test_an_invalid_image_is_refused(digits, value, words):
    with pytest.raises(InputError, match=r"^inputs?.*: got") as caught:
        load_student(digits.folder).predict(value)
    assert words in str(caught.value)


def test_every_invalid_input_of_a_batch_is_named(table, texts):
    good = {"age": 1, "job": "cook", "zip": "00"}
    bad = [good, {**good, "age": 10**400}, {"age": 1, "jobb": 2}, "age=1", {**good, "job": [1]}]
    with pytest.raises(InputError) as caught:
        load_student(table.folder).predict(bad)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "inputs[1], age", "inputs[2]", "inputs[3]", "inputs[4], job",
    ]  # fmt: skip
    assert "the columns age, job, zip" in lines[1]
    assert 'did you mean "jobb"' in lines[1]
    with pytest.raises(InputError, match="no column age"):
        load_student(table.folder).predict(pd.DataFrame([{"job": 1, "zip": 2}] * 90))
    with pytest.raises(InputError, match="inputs\\[1\\]: got None; allowed: a text"):
        load_student(texts.folder).predict(["good", None])
    with pytest.raises(InputError, match="batch_size"):
        load_student(texts.folder).predict("good", batch_size=0)


def test_a_folder_that_is_no_student_is_refused(digits, tmp_path):
    for folder, words in ((tmp_path / "none", "no such folder"), (tmp_path, "no preprocess.json")):
        with pytest.raises(InputError, match=words):
            load_student(folder)
    shutil.copy(digits.folder / "preprocess.json", tmp_path)
    with pytest.raises(InputError, match=r"no model\.onnx"):
        load_student(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="ONNX"):
        load_student(tmp_path)


def test_a_file_without_logits_is_refused(digits, tmp_path):
    shutil.copytree(digits.folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"logits", b"scores"))
    with pytest.raises(InputError, match=r"outputs scores .*allowed: an output values of 2 axes"):
        load_student(tmp_path)


def test_a_file_with_other_outputs_than_classes_is_refused(digits, tmp_path):
    shutil.copytree(digits.folder, tmp_path, dirs_exist_ok=True)
    path = Path(tmp_path / "preprocess.json")
    path.write_text(path.read_text().replace('"9"', '"9", "10"'))
    with pytest.raises(InputError, match="one output for each of the 11 classes"):
        load_student(tmp_path).predict(np.eye(8) * 16)
