from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.data.spec import DataSpec
from limbeck.data.stratify import LIMIT, TEST, choose, split
from limbeck.errors import InputError


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**63),
)
def test_each_class_keeps_its_share_within_one_row(
    labels: list[int], share: float, seed: int
) -> None:
    array = np.array(labels)
    count = round(share * len(array))
    chosen = choose(array, count, seed=seed, purpose=TEST)
    assert chosen.sum() == count
    for label in set(labels):
        expected = (array == label).sum() * count / len(array)
        assert abs(chosen[array == label].sum() - expected) < 1 + 1e-9


def test_the_choice_is_random_and_depends_on_seed_and_purpose() -> None:
    labels = np.zeros(1000, dtype=np.int64)
    first, other = (choose(labels, 500, seed=seed, purpose=TEST) for seed in (0, 1))
    limit = choose(labels, 500, seed=0, purpose=LIMIT)
    for half in (other, limit):
        # Independent halves share 250 rows, with a deviation of 8.
        assert 200 < (first & half).sum() < 300
    assert 200 < first[:500].sum() < 300


def test_splits_never_share_a_row_and_leave_none_out() -> None:
    labels = {"train": np.arange(300) % 7}
    rows, notes = split(labels, DataSpec(source="sklearn", name="digits"))
    assert sorted(rows) == ["test", "train", "validation"]
    together = np.concatenate([numbers for _, numbers in rows.values()])
    assert sorted(together) == list(range(300))
    assert [len(rows[name][1]) for name in ("train", "validation", "test")] == [216, 24, 60]
    assert len(notes) == 2


def test_the_test_rows_do_not_depend_on_the_share_of_validation() -> None:
    labels = {"train": np.arange(300) % 7}
    few, many = (
        split(labels, DataSpec(source="sklearn", name="digits", validation=share))[0]
        for share in (0.1, 0.5)
    )
    assert np.array_equal(few["test"][1], many["test"][1])


def test_splits_that_the_source_has_are_kept_and_limits_come_last() -> None:
    labels = {name: np.arange(100) % 4 for name in ("train", "validation", "test")}
    spec = DataSpec(source="sklearn", name="digits", max_samples={"train": 20, "test": 1000})
    rows, notes = split(labels, spec)
    assert rows["validation"][0] == "validation"
    assert np.bincount(labels["train"][rows["train"][1]]).tolist() == [5, 5, 5, 5]
    assert len(rows["test"][1]) == 100
    assert notes == ("The train split is limited to 20 of 100 rows, stratified by class.",)


def _counts(labels: np.ndarray, **settings: Any) -> dict[str, list[int]]:
    spec = DataSpec(source="csv", files={"train": "a"}, **settings)
    rows, _ = split({"train": labels}, spec)
    return {
        name: np.bincount(labels[numbers], minlength=labels.max() + 1).tolist()
        for name, (_, numbers) in rows.items()
    }


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_a_rare_class_always_has_a_training_row(rows: int, seed: int) -> None:
    labels = np.array([0] * 40 + [1] * rows + [2] * 40 + [3] * rows)
    counts = _counts(labels, split_seed=seed, test=0.4, validation=0.3)
    assert min(counts["train"]) >= 1
    assert sum(counts["test"]) == round(0.4 * len(labels))
    assert sum(map(sum, counts.values())) == len(labels)


def test_a_limit_keeps_every_class_and_cannot_be_smaller_than_their_number() -> None:
    labels = np.repeat(np.arange(12), [200, *[3] * 11])
    counts = _counts(labels, max_samples={"train": 12}, split_seed=3)
    assert counts["train"] == [1] * 12
    with pytest.raises(InputError, match="at least 12, one row for each class") as caught:
        _counts(labels, max_samples={"train": 11, "test": 1})
    assert len(caught.value.problems) == 2


def test_exchanging_rows_changes_nothing_where_no_class_is_rare() -> None:
    labels = np.arange(300) % 7
    plain = choose(labels, 60, seed=4, purpose=1)
    assert np.array_equal(plain, choose(labels, 60, seed=4, purpose=1, left=1, least=1))


def test_classes_that_a_split_lacks_are_named_with_their_rows(tmp_path: Path, read: Any) -> None:
    rows = {"x": list(range(43)), "label": ["a", "b"] * 20 + ["rare", "rare", "once"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    settings = {"files": {"train": "a.parquet"}, "classes": ["a", "b", "rare", "once"]}
    data = read(source="parquet", table={"numeric": ["x"]}, **settings)
    assert torch.bincount(data.train.labels, minlength=4).min() == 1
    notes = [note for note in data.facts.notes if "no row of" in note]
    assert any("once (1 in train" in note and note.startswith("test") for note in notes)
    with pytest.raises(InputError, match=r"no row of (rare|once).*at least one training row"):
        read(source="parquet", table={"numeric": ["x"]}, test=0.88, validation=0.5, **settings)
