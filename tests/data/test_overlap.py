"""Rows that are equal between splits are counted by content, and refused above a share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from limbeck.data.load import Data
from limbeck.data.overlap import check_overlap, expected_share
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError

Read = Callable[..., Data]
WORDS = ["amber", "birch", "cedar", "dune", "elm", "fern", "grove", "heath"]


def _hashes(rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.uint64)


def test_rows_are_counted_with_and_without_their_label() -> None:
    hashes = {
        "train": _hashes([1, 2, 3, 3, 4, 4]),
        "validation": _hashes([9, 8]),
        "test": _hashes([1, 2, 7, 9]),
    }
    labels = {
        "train": np.array([0, 0, 1, 0, 1, 1]),
        "validation": np.array([0, 0]),
        "test": np.array([0, 1, 1, 0]),
    }
    notes = check_overlap(hashes, labels, largest=0.25)
    assert notes == (
        "test: 2 of 4 rows (50.0%) equal a row of train, 1 of them (25.0% of the rows) "
        "with the same label",
        "test: 1 of 4 rows (25.0%) equal a row of validation, 1 of them (25.0% of the rows) "
        "with the same label",
        "train: 2 of 6 rows (33.3%) equal another row with another label",
    )
    with pytest.raises(InputError) as caught:
        check_overlap(hashes, labels, largest=0.2)
    assert len(caught.value.problems) == 3  # the equal row with another label is one
    assert check_overlap(hashes, labels, largest=0.2, expected=0.05) == notes


def test_splits_that_contradict_each_other_are_refused() -> None:
    rows = np.arange(20, dtype=np.uint64)
    hashes = {"train": rows, "validation": rows + 20, "test": rows + 15}
    labels = {name: np.arange(20) % 2 for name in hashes}  # 15 is 1 in train, and 0 in test
    with pytest.raises(
        InputError, match=r"test\): got '5 of 20 rows.*equal a row of train that has"
    ):
        check_overlap({**hashes, "validation": rows + 60}, labels, largest=0.1)
    check_overlap({**hashes, "validation": rows + 60}, labels, largest=0.3)


def _texts(path: Path, rows: list[int], first: str = "") -> None:
    texts = [f"{first}{WORDS[row % 8]} {WORDS[row // 8 % 8]} {WORDS[row // 64]}" for row in rows]
    data = {"text": texts, "label": [row % 2 for row in rows]}
    datasets.Dataset.from_dict(data).to_parquet(path)


def test_texts_that_are_copied_into_the_test_rows(tmp_path: Path, read: Read) -> None:
    files = {"train": "train.parquet", "test": "test.parquet"}
    _texts(tmp_path / "train.parquet", [*range(100)])
    _texts(tmp_path / "test.parquet", [*range(150, 200), 3, 5], first=" ")
    strict: dict[str, Any] = {"source": "parquet", "files": files, "text": {}, "max_overlap": 0.1}
    notes = " ".join(read(**strict).facts.notes)
    assert "test: 2 of 52 rows (3.8%) equal a row of train" in notes
    _texts(tmp_path / "test.parquet", [*range(150, 190), *range(12)])
    with pytest.raises(InputError, match=r"data \(test\).*state in data.max_overlap"):
        read(**strict)
    assert read(**{**strict, "max_overlap": 0.5})


def test_images_that_are_equal_after_decoding(tmp_path: Path, read: Read) -> None:
    for split in ("train", "test"):
        for row in range(24):
            folder = tmp_path / split / "ab"[row % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(row).integers(0, 256, (5, 5, 3), dtype=np.uint8)
            # The same pixels in files of other bytes.
            suffix = "png" if split == "train" else "bmp"
            Image.fromarray(pixels).save(folder / f"{split}{row}.{suffix}")
    files = {"train": "train", "test": "test"}
    with pytest.raises(InputError, match=r"data \(test\): got '2\d of 24 rows"):
        read(source="imagefolder", files=files, max_overlap=0.1)


def test_the_share_has_a_default_and_is_no_part_of_the_identity() -> None:
    spec = DataSpec(source="csv", files={"train": "a"})
    assert spec.max_overlap == 0.1
    assert "max_overlap" not in spec.identity()


def test_a_table_of_few_values_has_equal_rows_by_coincidence(tmp_path: Path, read: Read) -> None:
    random = np.random.default_rng(0)
    rows = 600
    few = {name: random.choice([*"abc"], rows).tolist() for name in ("p", "q", "r")}
    label = random.integers(0, 2, rows).tolist()
    datasets.Dataset.from_dict({**few, "label": label}).to_parquet(tmp_path / "a.parquet")
    table = {"categorical": ["p", "q", "r"]}
    data = read(source="parquet", files={"train": "a.parquet"}, table=table, max_overlap=0.1)
    assert any("test: 120 of 120 rows" in note for note in data.facts.notes)


def test_a_table_of_measurements_with_every_row_twice(tmp_path: Path, read: Read) -> None:
    from sklearn.datasets import load_wine

    bunch = load_wine()
    columns = [name.replace("/", "_") for name in bunch.feature_names]
    twice = {name: np.tile(column, 2) for name, column in zip(columns, bunch.data.T, strict=True)}
    rows = datasets.Dataset.from_dict({**twice, "label": np.tile(bunch.target, 2)})
    rows.to_parquet(tmp_path / "a.parquet")
    table = {"numeric": columns}
    with pytest.raises(InputError, match="equal a row of train"):
        read(source="parquet", files={"train": "a.parquet"}, table=table, max_overlap=0.1)


def test_the_expected_share_is_that_of_new_rows() -> None:
    """Against rows that are drawn anew from the same few values."""
    random = np.random.default_rng(1)
    cells = random.geometric(0.35, (2000, 4))
    new = random.geometric(0.35, (20_000, 4))
    known = {tuple(row) for row in cells.tolist()}
    seen = np.mean([tuple(row) in known for row in new.tolist()])
    _, hashes = np.unique(cells, axis=0, return_inverse=True)
    assert expected_share(cells, hashes.astype(np.uint64)) == pytest.approx(seen, abs=0.03)
    numbers = np.tile(np.arange(500), 3)
    assert expected_share(numbers[:, None], numbers.astype(np.uint64)) == 0
