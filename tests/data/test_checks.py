"""Errors in data are reported once, with the place, the allowed values and the fix."""

from __future__ import annotations

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


def _texts(path: Path, labels: list[Any], **columns: list[Any]) -> None:
    content = {"text": [f"text {row}" for row in range(len(labels))], "label": labels, **columns}
    datasets.Dataset.from_dict(content).to_parquet(path)


def test_every_missing_file_is_named_with_the_variable_and_the_fix(
    tmp_path: Path, read: Read
) -> None:
    (tmp_path / "train.parquet").touch()
    with pytest.raises(InputError) as caught:
        read(source="parquet", files={"train": "trian.parquet", "test": "/nowhere/x.parquet"})
    first, second = caught.value.problems
    assert str(tmp_path / "trian.parquet") in str(first)
    assert "LIMBECK_DATA" in str(first)
    assert 'did you mean "train.parquet"?' in str(first)
    assert "Set LIMBECK_DATA" in first.fix
    assert second.given == "/nowhere/x.parquet"


def test_a_file_of_another_kind(tmp_path: Path, read: Read) -> None:
    (tmp_path / "a.parquet").write_text("not parquet")
    with pytest.raises(InputError, match="files that parquet can read"):
        read(source="parquet", files={"train": "a.parquet"})


def test_wrong_columns_name_the_nearest(tmp_path: Path, read: Read) -> None:
    datasets.Dataset.from_dict({"sentence": ["a"], "labels": [0]}).to_parquet(tmp_path / "a")
    with pytest.raises(InputError) as caught:
        read(source="parquet", files={"train": "a"}, columns={"text": "sentense"}, text={})
    text, label = map(str, caught.value.problems)
    assert 'did you mean "sentence"?' in text
    assert 'did you mean "labels"?' in label


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0.5, 1.0], None, "got 'float64 (0.5 in row 0)'"),
        ([0, None], None, "no label in 1 of 2 rows, the first is row 1"),
        ([float("nan"), 1.0], None, "no label in 1 of 2 rows, the first is row 0"),
        (["a", "b"], None, "those found: a, b"),
        (["a", "bee"], ("a", "be"), "'bee' in row 1 (1 such rows)"),
        ([0, 2], None, "labels up to 2 without 1"),
        ([0, 2], ("a", "b"), "2 in row 1 (1 such rows)"),
        ([0, -1], None, "-1 in row 1 (1 such rows)"),
        ([0, 2**60], None, "without 1, 2, 3"),
    ],
)
def test_wrong_labels(
    tmp_path: Path, read: Read, labels: list[Any], classes: tuple[str, ...] | None, message: str
) -> None:
    _texts(tmp_path / "a.parquet", labels)
    with pytest.raises(InputError) as caught:
        read(source="parquet", files={"train": "a.parquet"}, classes=classes)
    assert message in str(caught.value)


def test_wrong_labels_of_all_splits_are_reported_at_once(tmp_path: Path, read: Read) -> None:
    for name in ("train", "test"):
        _texts(tmp_path / name, [0, 9])
    with pytest.raises(InputError) as caught:
        read(
            source="parquet", files={"train": "train", "test": "test"}, classes=["a", "b"], text={}
        )
    assert len(caught.value.problems) == 2


def test_a_class_that_training_lacks(tmp_path: Path, read: Read) -> None:
    _texts(tmp_path / "train", [0, 1] * 10)
    _texts(tmp_path / "test", [0, 1, 2])
    with pytest.raises(InputError, match="classes 2, which train lacks"):
        read(source="parquet", files={"train": "train", "test": "test"}, text={})


def test_a_named_class_without_rows_is_noted(tmp_path: Path, read: Read) -> None:
    _texts(tmp_path / "train", [0, 2] * 10)
    data = read(source="parquet", files={"train": "train"}, classes=["a", "b", "c"], text={})
    assert "no row of the class b in train" in data.facts.notes


def test_empty_splits(tmp_path: Path, read: Read) -> None:
    _texts(tmp_path / "train", [0, 1] * 10)
    empty = {"text": datasets.Value("string"), "label": datasets.Value("int64")}
    nothing = {"text": [], "label": []}
    datasets.Dataset.from_dict(nothing, datasets.Features(empty)).to_parquet(tmp_path / "test")
    with pytest.raises(InputError, match=r"data \(test\): got 'no rows'"):
        read(source="parquet", files={"train": "train", "test": "test"}, text={})
    with pytest.raises(InputError, match=r"data \(validation\): got 'no rows'"):
        read(source="parquet", files={"train": "train"}, validation=0.01, text={})


def test_a_row_without_text(tmp_path: Path, read: Read) -> None:
    content = {"text": ["a", None, "b", None] * 5, "label": [0, 1] * 10}
    datasets.Dataset.from_dict(content).to_parquet(tmp_path / "a")
    with pytest.raises(InputError, match=r"None in row 1 \(10 such rows\)"):
        read(source="parquet", files={"train": "a"}, text={})


def _python(tmp_path: Path, code: str) -> str:
    file = tmp_path / "mine.py"
    file.write_text(f"import numpy as np\ndef make():\n    {code}\n")
    return f"{file}:make"


def test_every_image_with_nan_is_named(tmp_path: Path, read: Read) -> None:
    code = "x = np.ones((20, 4, 4)); x[[7, 9], 0, 0] = np.nan; return {'train': (x, y), 'test': t}"
    code = "y = np.arange(20) % 2; t = (np.ones((4, 4, 4)), [0, 1, 0, 1]); " + code
    with pytest.raises(InputError) as caught:
        read(source="python", name=_python(tmp_path, code), validation=0.1, split_seed=0)
    assert all("NaN or infinity" in str(problem.given) for problem in caught.value.problems)
    rows = {problem.where.rpartition(", ")[2] for problem in caught.value.problems}
    assert rows == {"row 7", "row 9"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "return np.zeros((5, 4, 4)), [0, 1]",
            r"inputs of shape \(5, 4, 4\), labels of shape \(2,\)",
        ),
        ("return np.zeros((5, 4)), [0] * 5", r"an array of shape \(5, 4\)"),
        ("return np.full((20, 4, 4), 300), np.arange(20) % 2", "values from 300 to 300"),
        ("return np.zeros((20, 2, 4, 4), 'uint8'), np.arange(20) % 2", "1 or 3 channels"),
        ("return 3", "a pair"),
    ],
)
def test_wrong_arrays(tmp_path: Path, read: Read, code: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(source="python", name=_python(tmp_path, code))


def test_images_of_different_sizes(tmp_path: Path, read: Read, png: Any) -> None:
    images = [png(row, size=(6, 5 + row // 19)) for row in range(20)]
    content = {"image": images, "label": [0, 1] * 10}
    datasets.Dataset.from_dict(content).to_parquet(tmp_path / "a")
    with pytest.raises(InputError, match=r"(?s)row 19.*6x6.*set data.image.size"):
        read(source="parquet", files={"train": "a"})
    assert read(source="parquet", files={"train": "a"}, image={"size": 4})


def test_an_image_that_cannot_be_opened(tmp_path: Path, read: Read, png: Any) -> None:
    images = [png(row) for row in range(20)]
    images[3] = images[3][:60]
    content = {"image": images, "label": [0, 1] * 10}
    datasets.Dataset.from_dict(content).to_parquet(tmp_path / "a")
    with pytest.raises(InputError, match=r"row 3: .*an image that PIL can open"):
        read(source="parquet", files={"train": "a"})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:60]), "truncated|broken"),
        (lambda file: file.write_bytes(b"text"), "no known format"),
        (lambda file: Image.new("F", (5, 6)).save(file, "TIFF"), "pixels of mode F"),
        (lambda file: Image.new("L", (7, 7)).save(file), "an image of 7x7"),
    ],
)
def test_an_invalid_image_of_a_folder_is_named_by_its_file(
    tmp_path: Path, read: Read, png: Any, fault: Any, message: str
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for row in range(10):
            (tmp_path / "set" / name / f"{row}.png").write_bytes(png(row + ord(name[0])))
    file = tmp_path / "set" / "dog" / "3.png"
    fault(file)
    with pytest.raises(InputError, match=message) as caught:
        read(source="imagefolder", files={"train": "set"})
    (problem,) = caught.value.problems
    assert problem.where.endswith(f"row 13 ({file})")
    assert str(problem).count(str(file)) == 1


def test_grey_arrays_become_colours_but_not_the_other_way(tmp_path: Path, read: Read) -> None:
    grey = _python(tmp_path, "return np.zeros((20, 4, 4), 'uint8'), np.arange(20) % 2")
    data = read(source="python", name=grey, image={"channels": 3})
    assert next(data.train.batches(1))["image"].shape == (1, 3, 4, 4)
    colours = _python(tmp_path, "return np.zeros((20, 3, 4, 4), 'uint8'), np.arange(20) % 2")
    with pytest.raises(InputError, match="the array has 3 channels"):
        read(source="python", name=colours, image={"channels": 1})


def test_labels_of_any_whole_type(tmp_path: Path, read: Read) -> None:
    code = "return np.zeros((20, 4, 4)), np.arange(20) % 2 == 1"
    labels = read(source="python", name=_python(tmp_path, code)).train.labels
    assert sorted(np.unique(labels.numpy()).tolist()) == [0, 1]
