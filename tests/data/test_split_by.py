"""Splits by whole groups and by time."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from pydantic import ValidationError

from limbeck.data.load import Data
from limbeck.data.spec import DataSpec
from limbeck.data.split_by import choose_groups, read_times
from limbeck.errors import InputError

Read = Callable[..., Data]
ROWS = 120


def _rows(count: int = ROWS, prefix: str = "p") -> dict[str, list[Any]]:
    order = np.random.default_rng(0).permutation(count)
    start = datetime.datetime(2024, 1, 1)
    return {
        "row": list(range(count)),
        "label": [row % 3 for row in range(count)],
        "patient": [f"{prefix}{row // 4}" for row in range(count)],
        "day": [int(one) for one in order],
        "date": [str(start + datetime.timedelta(hours=int(one))) for one in order],
    }


@pytest.fixture
def load_rows(tmp_path: Path, read: Read) -> Callable[..., Data]:
    """Return a function that loads the rows with a split."""

    def load(split: Any, *, rows: Any = None, test: Any = None, **settings: Any) -> Data:
        datasets.Dataset.from_dict(rows or _rows()).to_parquet(tmp_path / "a.parquet")
        files = {"train": "a.parquet"}
        if test:
            datasets.Dataset.from_dict(test).to_parquet(tmp_path / "b.parquet")
            files["test"] = "b.parquet"
        table = {"numeric": ["row"]}
        return read(source="parquet", files=files, table=table, split=split, **settings)

    return load


def _numbers(data: Data) -> dict[str, list[int]]:
    found = {}
    for name in ("train", "validation", "test"):
        split = getattr(data, name)
        texts = [split.raw(row)["text"] for row in range(len(split))]
        found[name] = [int(text.split("row: ")[1]) for text in texts]
    return found


def test_no_group_is_in_two_splits(load_rows: Callable[..., Data]) -> None:
    data = load_rows({"group": "patient"})
    rows = _numbers(data)
    groups = {name: {row // 4 for row in one} for name, one in rows.items()}
    assert sorted(row for one in rows.values() for row in one) == list(range(ROWS))
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["validation"]
    assert not groups["validation"] & groups["test"]
    assert len(rows["test"]) == 24
    assert "24 of the 120 training rows: 6 of 30 groups of 'patient'" in " ".join(data.facts.notes)
    assert rows == _numbers(load_rows({"group": "patient"}))
    assert rows != _numbers(load_rows({"group": "patient"}, split_seed=1))


def test_the_test_does_not_depend_on_the_share_of_validation(
    load_rows: Callable[..., Data],
) -> None:
    one, other = (load_rows({"group": "patient"}, validation=share) for share in (0.1, 0.3))
    assert _numbers(one)["test"] == _numbers(other)["test"]


def test_drawn_groups_have_about_the_shares_of_all_classes() -> None:
    random = np.random.default_rng(3)
    groups = random.integers(0, 200, 3000)
    strata = (groups % 10 == 0).astype(np.int64)  # a class of a tenth of the groups
    chosen = choose_groups(groups, strata, 0.2, seed=0)
    assert abs(chosen.mean() - 0.2) < 0.01
    assert abs(strata[chosen].mean() - strata.mean()) < 0.01


def test_groups_shared_by_splits_of_the_source_are_refused(
    load_rows: Callable[..., Data],
) -> None:
    with pytest.raises(InputError, match="5 groups of test that train has too: p0, p1"):
        load_rows({"group": "patient"}, test=_rows(20))
    data = load_rows({"group": "patient"}, test=_rows(20, "q"))
    assert (len(data.train) + len(data.validation), len(data.test)) == (ROWS, 20)


def test_a_row_without_a_group_is_refused(load_rows: Callable[..., Data]) -> None:
    rows = _rows()
    rows["patient"][7] = None
    with pytest.raises(InputError, match="no group in 1 rows, the first is row 7"):
        load_rows({"group": "patient"}, rows=rows)
    with pytest.raises(InputError, match=r'data\.split\.group .*did you mean "patient"'):
        load_rows({"group": "patent"})
    with pytest.raises(InputError, match="at least two groups"):
        load_rows({"group": "patient"}, rows={**_rows(), "patient": ["one"] * ROWS})


@pytest.mark.parametrize("column", ["day", "date"])
def test_the_last_rows_are_the_test(load_rows: Callable[..., Data], column: str) -> None:
    data = load_rows({"time": column})
    order = np.array(_rows()["day"])
    rows = {name: order[one] for name, one in _numbers(data).items()}
    assert sorted(rows["test"]) == list(range(96, 120))
    assert sorted(rows["validation"]) == list(range(86, 96))
    assert sorted(rows["train"]) == list(range(86))
    assert f"the last 24 of the 120 training rows by '{column}'" in " ".join(data.facts.notes)


def test_rows_of_one_moment_stay_together(load_rows: Callable[..., Data]) -> None:
    days = [row // 30 for row in range(ROWS)]
    data = load_rows({"time": "day"}, rows={**_rows(), "day": days})
    assert _numbers(data)["test"] == list(range(90, 120))


def test_times_of_every_form_are_ordered() -> None:
    forms = [
        [3, 1, 2],
        ["3", "1.5", "2"],
        ["2024-03-01", "2023-01-01 10:00", "2024-02-28T23:59:59"],
        ["2024-01-01T03:00+01:00", "2024-01-01T00:00Z", "2024-01-01T01:00"],
        [datetime.date(2024, 3, 1), datetime.date(2023, 1, 1), datetime.date(2024, 2, 1)],
    ]
    for cells in forms:
        dataset = datasets.Dataset.from_dict({"t": cells})
        assert np.argsort(read_times(dataset, "t")).tolist() == [1, 2, 0]
    for wrong in (["2024-01-01", "soon"], [1.0, None]):
        with pytest.raises(InputError, match="in row 1"):
            read_times(datasets.Dataset.from_dict({"t": wrong}), "t")


def test_a_column_is_needed_and_the_fingerprint_follows() -> None:
    for settings in ({}, {"group": "a", "time": "b"}):
        with pytest.raises(ValidationError, match="one of them"):
            DataSpec(source="csv", files={"train": "a"}, split=settings)
    plain = DataSpec(source="csv", files={"train": "a"})
    assert "split" not in plain.identity()
    assert plain.model_copy(update={"split": None}).identity() == plain.identity()
    by_time = DataSpec(source="csv", files={"train": "a"}, split={"time": "t"})
    assert by_time.identity() != plain.identity()


def test_unlabelled_rows_of_a_test_group_are_left_out(load_rows: Callable[..., Data]) -> None:
    rows = _rows()
    rows["label"] = [None if row % 4 == 3 else row % 3 for row in range(ROWS)]
    data = load_rows({"group": "patient"}, rows=rows, unlabelled=True)
    found = _numbers(data)
    groups = {name: {row // 4 for row in one} for name, one in found.items()}
    assert not groups["train"] & (groups["test"] | groups["validation"])
    assert any(row % 4 == 3 for row in found["train"])
    assert "rows without a label are left out" in " ".join(data.facts.notes)
