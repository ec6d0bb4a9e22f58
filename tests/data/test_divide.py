from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from limbeck.data.divide import LIMIT, TEST, choose, divide
from limbeck.data.spec import DataSpec


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
    one, other = (choose(labels, 500, seed=seed, purpose=TEST) for seed in (0, 1))
    limit = choose(labels, 500, seed=0, purpose=LIMIT)
    for first, second in ((one, other), (one, limit)):
        # Independent halves share 250 rows, with a deviation of 8.
        assert 200 < (first & second).sum() < 300
    assert 200 < one[:500].sum() < 300


def test_splits_never_share_a_row_and_leave_none_out() -> None:
    labels = {"train": np.arange(300) % 7}
    rows, notes = divide(labels, DataSpec(source="sklearn", name="digits"))
    assert sorted(rows) == ["test", "train", "validation"]
    together = np.concatenate([numbers for _, numbers in rows.values()])
    assert sorted(together) == list(range(300))
    assert [len(rows[name][1]) for name in ("train", "validation", "test")] == [216, 24, 60]
    assert len(notes) == 2


def test_the_test_rows_do_not_depend_on_the_share_of_validation() -> None:
    labels = {"train": np.arange(300) % 7}
    few, many = (
        divide(labels, DataSpec(source="sklearn", name="digits", validation=share))[0]
        for share in (0.1, 0.5)
    )
    assert np.array_equal(few["test"][1], many["test"][1])


def test_splits_that_the_source_has_are_kept_and_limits_come_last() -> None:
    labels = {name: np.arange(100) % 4 for name in ("train", "validation", "test")}
    spec = DataSpec(source="sklearn", name="digits", limit={"train": 20, "test": 1000})
    rows, notes = divide(labels, spec)
    assert rows["validation"][0] == "validation"
    assert np.bincount(labels["train"][rows["train"][1]]).tolist() == [5, 5, 5, 5]
    assert len(rows["test"][1]) == 100
    assert notes == ("train: limited to 20 of 100 rows, stratified",)
