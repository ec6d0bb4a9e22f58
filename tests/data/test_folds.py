"""k-fold splits and class weights of training rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.class_weight import compute_class_weight

from limbeck.data.folds import folds_of
from limbeck.data.load import Data
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError

Read = Callable[..., Data]
ROWS = 120


@pytest.fixture
def load_rows(tmp_path: Path, read: Read) -> Callable[..., Data]:
    """Return a function that loads rows of three classes, of 80, 32 and 8 rows."""

    def load(*, unlabelled_rows: int = 0, test: bool = False, **given: Any) -> Data:
        label: list[Any] = ["a"] * 80 + ["b"] * 32 + ["c"] * 8
        label[:unlabelled_rows] = [None] * unlabelled_rows
        content = {
            "row": list(range(ROWS)),
            "label": label,
            "patient": [f"p{row % 30}" for row in range(ROWS)],
            "weight": [1.0 + row % 2 for row in range(ROWS)],
        }
        datasets.Dataset.from_dict(content).to_parquet(tmp_path / "a.parquet")
        files = {"train": "a.parquet", **({"test": "a.parquet"} if test else {})}
        own = {"table": {"numeric": ["row"]}, "classes": ["a", "b", "c"], **given}
        return read(source="parquet", files=files, **own)

    return load


def rows_of(data: Data, name: str) -> list[int]:
    split = getattr(data, name)
    texts = [split.raw(row)["text"] for row in range(len(split))]
    return [int(text.split("row: ")[1]) for text in texts]


@pytest.mark.filterwarnings("ignore:The least populated")
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(20, 90))
def test_folds_are_those_of_sklearn(seed: int, count: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    strata, groups = random.integers(0, 3, rows), random.integers(0, 8, rows)
    groups[:8] = range(8)
    options = {"n_splits": count, "shuffle": True, "random_state": seed}
    for own, splitter in (
        (None, StratifiedKFold(**options)),
        (groups, StratifiedGroupKFold(**options)),
    ):
        found = folds_of(strata, count, seed=seed, groups=own)
        for fold, (_, test) in enumerate(splitter.split(strata, strata, own)):
            assert np.flatnonzero(found == fold).tolist() == test.tolist()


@pytest.mark.parametrize("group", [None, "patient"])
def test_each_row_is_in_the_test_of_exactly_one_fold(
    load_rows: Callable[..., Data], group: str | None
) -> None:
    tests: list[int] = []
    for fold in range(4):
        data = load_rows(split={"folds": 4, "fold": fold, "group": group})
        rows = {name: rows_of(data, name) for name in ("train", "validation", "test")}
        assert sorted(row for one in rows.values() for row in one) == list(range(ROWS))
        assert f"fold {fold} of 4, numbered from 0" in " ".join(data.facts.notes)
        if group:
            patients = [{row % 30 for row in one} for one in rows.values()]
            assert sum(map(len, patients)) == len(set.union(*patients))
        else:
            assert np.bincount(data.test.labels).tolist() == [20, 8, 2]
        tests += rows["test"]
    assert sorted(tests) == list(range(ROWS))


def test_rows_without_a_label_stay_in_train(load_rows: Callable[..., Data]) -> None:
    data = load_rows(split={"folds": 4, "fold": 1}, unlabelled=True, unlabelled_rows=20)
    assert set(range(20)) <= set(rows_of(data, "train"))
    assert len(data.test) == 25


def test_folds_that_do_not_fit_are_refused(load_rows: Callable[..., Data]) -> None:
    for own, message in (
        ({"folds": 5}, "fold is missing; allowed: with folds"),
        ({"fold": 1}, "folds is missing; allowed: with fold"),
        ({"folds": 5, "fold": 5}, "fold is 5; allowed: 0 to 4"),
        ({"folds": 5, "fold": 0, "time": "day"}, "time and folds are given"),
        ({"folds": 1, "fold": 0}, "greater than or equal to 2"),
    ):
        with pytest.raises(ValidationError, match=message):
            DataSpec(source="csv", files={"train": "a"}, split=own)
    with pytest.raises(InputError, match=r"data.split.folds: got 81; allowed: at most 80"):
        load_rows(split={"folds": 81, "fold": 0})
    with pytest.raises(InputError, match=r"data.split.folds: got 31; allowed: at most 30, the num"):
        load_rows(split={"folds": 31, "fold": 0, "group": "patient"})
    with pytest.raises(InputError, match=r"data.split.folds: got 'a source with a test split'"):
        load_rows(split={"folds": 3, "fold": 0}, test=True)


def test_the_fingerprint_has_the_fold_and_that_of_groups_stays() -> None:
    def identity(**own: Any) -> dict[str, Any]:
        return DataSpec(source="csv", files={"train": "a"}, split=own).identity()

    assert identity(folds=3, fold=0) != identity(folds=3, fold=1)
    assert identity(group="p")["split"] == {"group": "p", "time": None}


# -- class weights --------------------------------------------------------------------------------


def test_balanced_weights_are_sklearns_and_train_only(load_rows: Callable[..., Data]) -> None:
    data = load_rows(class_weights="balanced")
    batch = data.train.__getitems__(range(len(data.train)))
    labels = batch["labels"].numpy()
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(batch["weight"], expected[labels], rtol=1e-6)
    sums = np.bincount(labels, batch["weight"])
    np.testing.assert_allclose(sums, sums[0], rtol=1e-5)
    assert "training rows weighted by class: a 0.494, b 1.25, c 5.73" in " ".join(data.facts.notes)
    assert "weight" not in data.validation[0]
    assert "weight" not in data.test[0]


def test_stated_weights_multiply_those_of_rows(load_rows: Callable[..., Data]) -> None:
    data = load_rows(class_weights={"c": 5.0, "a": 0.0}, columns={"weight": "weight"})
    batch = data.train.__getitems__(range(len(data.train)))
    of_row = 1.0 + np.array(rows_of(data, "train")) % 2
    expected = np.array([0.0, 1.0, 5.0])[batch["labels"].numpy()] * of_row
    np.testing.assert_allclose(batch["weight"], expected)
    of_test = 1.0 + np.array(rows_of(data, "test")) % 2
    np.testing.assert_allclose(data.test.__getitems__(range(len(data.test)))["weight"], of_test)


def test_rows_without_a_label_have_the_weight_one(load_rows: Callable[..., Data]) -> None:
    data = load_rows(class_weights="balanced", unlabelled=True, unlabelled_rows=20)
    batch = data.train.__getitems__(range(len(data.train)))
    assert (batch["weight"][~batch["labelled"]] == 1).all()
    assert abs(float(batch["weight"][batch["labelled"]].mean()) - 1) < 1e-6


def test_class_weights_that_do_not_fit_are_refused(load_rows: Callable[..., Data]) -> None:
    with pytest.raises(InputError) as error:
        load_rows(class_weights={"A": 2.0, "d": 1.0})
    assert [problem.given for problem in error.value.problems] == ["A", "d"]
    assert "data.class_weights: got 'A'; allowed: a, b, c" in str(error.value)
    with pytest.raises(InputError, match="a weight above 0 for a class with training rows"):
        load_rows(class_weights={"a": 0, "b": 0, "c": 0})
    for wrong in ({"a": -1}, {"a": float("nan")}, "balance"):
        with pytest.raises(ValidationError, match="class_weights"):
            DataSpec(source="csv", files={"train": "a"}, class_weights=wrong)
    with pytest.raises(
        ValidationError, match=r"class_weights and targets|targets and class_weights"
    ):
        DataSpec(source="csv", files={"train": "a"}, class_weights="balanced", targets=["x"])
