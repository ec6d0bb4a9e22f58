"""Labels are mapped to classes by name, in every source and every split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from limbeck.data.labels.classes import read_labels
from limbeck.data.load import Data
from limbeck.errors import InputError

Read = Callable[..., Data]


def _split(labels: list[Any], names: list[str] | None = None) -> datasets.Dataset:
    data = datasets.Dataset.from_dict({"label": labels})
    return data.cast_column("label", datasets.ClassLabel(names=names)) if names else data


def _read(
    train: datasets.Dataset, test: datasets.Dataset | None = None, classes: Any = None
) -> dict[str, list[str]]:
    """Return the class name of each row."""
    splits = {"train": train} if test is None else {"train": train, "test": test}
    found = read_labels(splits, "label", tuple(classes) if classes else None)
    return {
        split: [found.classes[code] for code in codes.tolist()]
        for split, codes in found.rows.items()
    }


def test_classes_in_another_order_than_the_source_rename_nothing() -> None:
    train = _split([0, 1, 2], ["ant", "bee", "cow"])
    assert _read(train, classes=["cow", "ant", "bee"])["train"] == ["ant", "bee", "cow"]


def test_splits_with_other_orders_and_fewer_names_are_mapped_by_name() -> None:
    train, test = _split([0, 1, 2], ["ant", "bee", "cow"]), _split([0, 1], ["cow", "bee"])
    assert _read(train, test)["test"] == ["cow", "bee"]
    assert _read(train, test, ["bee", "cow", "ant"])["test"] == ["cow", "bee"]
    assert _read(train, _split(["cow", "ant"]))["test"] == ["cow", "ant"]


@pytest.mark.parametrize(
    ("source", "classes"),
    [
        (["New_York", "san-jose"], ["San Jose", "new york"]),
        (["caf\u00e9", "bar"], ["bar", "cafe\u0301"]),
        ([" x", "y "], ["y", "x"]),
    ],
)
def test_names_that_differ_in_spelling_alone(source: list[str], classes: list[str]) -> None:
    first, second = classes[::-1]
    assert _read(_split([0, 1], source), classes=classes)["train"] == [first, second]
    found = read_labels({"train": _split(source)}, "label", tuple(classes))
    assert "classes named differently in the source" in " ".join(found.notes)


def test_a_name_of_two_spellings_is_matched_exactly_or_refused() -> None:
    assert _read(_split(["c", "C"]), classes=["C", "c"])["train"] == ["c", "C"]
    with pytest.raises(InputError, match="'C' in row 1"):
        _read(_split(["c", "C"]), classes=["c", "d"])


@pytest.mark.parametrize(
    ("labels", "names", "classes", "message"),
    [
        ([0, 1], ["neg", "pos"], ["negative", "positive"], "'neg' in row 0"),
        ([0, 1, 2], ["ant", "bee", "cow"], ["ant", "bee"], "'cow' in row 2 (1 such rows)"),
        ([0, 1], ["horse", "cow"], ["cow", "hrose"], 'did you mean "hrose"?'),
        ([0, 1, 2], ["1", "2", "3"], ["ant", "bee", "cow"], "1 in row 0"),
        ([1, 2, 3], None, ["0", "1", "2"], "3 in row 2"),
        ([0, -1], ["ant", "bee"], None, "-1 marks rows without a label"),
        ([True, False], None, ["no", "maybe"], "truth values"),
        ([[0, 1], [1]], None, None, "several labels per row"),
        ([[0.0, 1.0], [1.0, 0.0]], None, None, "a list of 2 labels in row 0"),
        ([[], [1]], None, None, "a list of 0 labels in row 0"),
        ([{"a": 1}, {"a": 2}], None, None, "struct"),
        ([b"a", b"b"], None, None, "binary"),
    ],
)
def test_ambiguous_labels_are_refused(labels: Any, names: Any, classes: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        _read(_split(labels, names), classes=classes)
    assert message in str(caught.value)


def test_all_unknown_names_are_reported_at_once() -> None:
    with pytest.raises(InputError) as caught:
        _read(_split(["a", "b", "c"]), _split(["d"]), ["a", "x", "y"])
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("labels", "classes", "read_as"),
    [
        ([0, 1], ["low", "high"], ["low", "high"]),
        ([1, 2], ["2", "1"], ["1", "2"]),
        (["1", "0"], None, ["1", "0"]),
        (["1", "0"], ["low", "high"], ["high", "low"]),
        (["01", "1"], ["1", "01"], ["01", "1"]),
        ([True, False], None, ["True", "False"]),
        ([True, False], ["yes", "no"], ["yes", "no"]),
        ([True, False], ["true", "false"], ["true", "false"]),
        ([True, False], ["cold", "hot"], ["hot", "cold"]),
        ([1.0, 0.0], None, ["1", "0"]),
        ([[1], [0]], None, ["1", "0"]),
        ([["b"], ["a"]], ["a", "b"], ["b", "a"]),
    ],
)
def test_labels_of_every_type(labels: list[Any], classes: Any, read_as: list[str]) -> None:
    assert _read(_split(labels), classes=classes)["train"] == read_as


def test_placeholders_are_indices_and_may_be_named() -> None:
    train = _split([0, 1], ["LABEL_0", "LABEL_1"])
    assert _read(train, classes=["ham", "spam"])["train"] == ["ham", "spam"]
    folders = [str(number) for number in sorted(range(11), key=str)]
    found = _read(_split([2, 1], folders), classes=[f"class {n}" for n in range(11)])
    assert found["train"] == ["class 10", "class 1"]


def test_numbers_beside_names_are_refused_unless_an_order_connects_them() -> None:
    train, bare = _split([0, 1], ["ant", "bee"]), _split([1, 0])
    assert _read(train, bare, ["ant", "bee"])["test"] == ["bee", "ant"]
    with pytest.raises(InputError, match="numbers in test, names in train"):
        _read(train, bare, ["bee", "ant"])
    for one, other in ((train, bare), (bare, train)):
        with pytest.raises(InputError):
            _read(one, other)


def test_a_dictionary_column_of_a_parquet_file(tmp_path: Path, read: Read) -> None:
    kinds = pa.array(["b", "a"] * 20).dictionary_encode()
    parquet.write_table(pa.table({"x": range(40), "label": kinds}), tmp_path / "a.parquet")
    data = read(
        source="parquet", files={"train": "a.parquet"}, table={"numeric": ["x"]}, classes=["a", "b"]
    )
    assert data.classes[int(data.test.labels[0])] == "ba"[int(data.test.raw(0)["text"][3:]) % 2]


def test_parquet_files_keep_their_own_class_names(tmp_path: Path, read: Read) -> None:
    for name, names in (("train", ["ant", "bee"]), ("test", ["bee", "ant"])):
        x = [row + 0.5 * len(name) for row in range(20)]
        data = datasets.Dataset.from_dict({"x": x, "label": [0, 1] * 10})
        data = data.cast_column("label", datasets.ClassLabel(names=names))
        data.to_parquet(tmp_path / f"{name}.parquet")
    files = {"train": "train.parquet", "test": "test.parquet"}
    for source in ({"source": "parquet", "files": files}, {"source": "hub", "name": str(tmp_path)}):
        data = read(**source, table={"numeric": ["x"]})
        assert data.classes == ("ant", "bee")
        assert data.test.labels.tolist() == [1, 0] * 10
        assert any("test: labels mapped by name" in note for note in data.facts.notes)
    with pytest.raises(InputError, match="files with the same columns"):
        read(source="parquet", files={"train": ["train.parquet", "test.parquet"]})


def test_an_image_folder_in_another_order(tmp_path: Path, read: Read) -> None:
    for number, name in enumerate(("red", "green", "blue")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for row in range(12):
            pixels = np.zeros((4, 4, 3), dtype=np.uint8)
            pixels[..., number] = 200 + row
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{row}.png")
    names = ["red", "green", "blue"]
    data = read(source="imagefolder", files={"train": "train"}, classes=names)
    for split in (data.train, data.validation, data.test):
        for row in range(len(split)):
            seen = np.asarray(split.raw(row)["image"]).max(axis=(0, 1)).argmax()
            assert data.classes[int(split.labels[row])] == names[seen]
    assert (
        "train: labels mapped by name; the source's order is blue, green, red" in data.facts.notes
    )
