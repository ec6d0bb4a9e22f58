"""Tables: columns become features as scikit-learn makes them, and groups are kept beside them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from limbeck.data.columns import Categorical, Column, Numeric, measure_numbers, name_of, number
from limbeck.data.load import Data
from limbeck.data.modalities.table import TablePreprocess
from limbeck.data.preprocess import load
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError

Read = Callable[..., Data]
ROWS = 200
TABLE = {"numeric": ["age", "hours"], "categorical": ["job", "code"]}


def _people(rows: int = ROWS, seed: int = 0) -> dict[str, list[Any]]:
    random = np.random.default_rng(seed)
    return {
        "age": random.integers(17, 90, rows).tolist(),
        "hours": random.normal(1e6, 1.0, rows).tolist(),
        "job": random.choice(["clerk", "cook", "nurse"], rows).tolist(),
        "code": random.integers(0, 4, rows).tolist(),
        "sex": random.choice(["f", "m"], rows).tolist(),
        "pay": random.choice(["low", "high"], rows).tolist(),
    }


@pytest.fixture
def people(tmp_path: Path, read: Read) -> Callable[..., Data]:
    """Load a drawn table, with columns and settings changed."""

    def load_it(changes: dict[str, list[Any]] | None = None, **others: Any) -> Data:
        content = {**_people(), **(changes or {})}
        datasets.Dataset.from_dict(content).to_parquet(tmp_path / "people.parquet")
        given = {
            "files": {"train": "people.parquet"},
            "columns": {"label": "pay"},
            "classes": ["low", "high"],
            "table": TABLE,
            "sensitive_features": ["sex"],
        }
        return read(source="parquet", **{**given, **others})

    return load_it


def _features(split: Any) -> np.ndarray:
    return next(split.batches(10**6))["features"].numpy()


def _rows(split: Any) -> pd.DataFrame:
    """Read a split's rows back from what it shows, as one that knows nothing of features would."""
    cells = [
        dict(part.split(": ") for part in split.raw(n)["text"].split(", "))
        for n in range(len(split))
    ]
    return pd.DataFrame(cells)


def test_features_are_those_of_scikit_learn_fitted_on_the_training_rows(
    people: Callable[..., Data],
) -> None:
    data = people()
    train, numeric, categorical = _rows(data.train), TABLE["numeric"], TABLE["categorical"]
    scale = StandardScaler().fit(train[numeric].astype(float))
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(train[categorical])
    for split in (data.train, data.validation, data.test):
        rows = _rows(split)
        ones = encode.transform(rows[categorical])
        # Beside each column's own values one more: what the training rows have not.
        jobs, nothing = len(set(train["job"])), np.zeros((len(rows), 1))
        parts = [scale.transform(rows[numeric].astype(float))]
        parts += [ones[:, :jobs], nothing, ones[:, jobs:], nothing]
        np.testing.assert_allclose(_features(split), np.hstack(parts), rtol=1e-4, atol=1e-4)
    assert data.preprocess.model_inputs() == {"table_features": data.preprocess.width}


def test_a_batch_has_the_requested_rows(people: Callable[..., Data]) -> None:
    data = people()
    batch = data.train.__getitems__([3, 0])
    assert batch["features"].dtype == torch.float32
    assert np.array_equal(batch["features"].numpy(), _features(data.train)[[3, 0]])
    assert batch["index"].tolist() == [3, 0]


def test_numpy_alone_computes_the_same_features(
    people: Callable[..., Data], tmp_path: Path
) -> None:
    """The card's own snippet, given rows of which some are missing or unseen."""
    age = [None if row % 5 == 0 else row for row in range(ROWS)]
    data = people({"age": age})
    assert [path.name for path in data.preprocess.save(tmp_path)] == ["preprocess.json"]
    rows = [
        {"age": 30, "hours": 1e6, "job": "cook", "code": 2},
        {"age": None, "hours": 1e6 + 1.5, "job": "pilot", "code": 9},
        {"age": 0.5, "hours": None, "job": None, "code": 0},
    ]
    assert load(tmp_path) == data.preprocess
    mine = data.preprocess(rows)["features"]
    prepare = json.loads((tmp_path / "preprocess.json").read_text())
    assert mine.shape == (3, prepare["width"])
    for row, expected in zip(rows, mine, strict=True):
        assert np.array_equal(_by_the_card(prepare, row), expected)


def _by_the_card(prepare: dict[str, Any], row: dict[str, Any]) -> np.ndarray:
    """Compute features as the model card documents: from a row to the model's input."""
    from limbeck.report.usage import usage

    snippet = usage("tabular_classification", "table").split("```python")[1].split("```")[0]
    code = snippet[snippet.index("features = []") : snippet.index("inputs = {")]
    names: dict[str, Any] = {"np": np, "prepare": prepare, "row": row}
    exec(code, names)
    return names["features"][0]


def test_missing_numbers_get_the_mean_and_a_flag(people: Callable[..., Data]) -> None:
    hours = [None if row % 4 == 0 else float(row) for row in range(ROWS)]
    data = people({"hours": hours})
    age, column = data.preprocess.numeric
    assert not age.flag
    assert column.flag
    features = _features(data.train)
    missing = np.array([row["hours"] == "None" for _, row in _rows(data.train).iterrows()])
    assert np.array_equal(features[:, 2], missing.astype(np.float32))
    assert (features[missing, 1] == 0).all()
    known = features[~missing, 1].astype(np.float64)
    assert known.mean() == pytest.approx(0, abs=1e-5)
    assert known.std() == pytest.approx(1, abs=1e-5)


def test_a_number_missing_only_later_gets_the_mean_without_a_flag() -> None:
    prepare = TablePreprocess((Numeric("age", 40.0, 10.0, False),), ())
    assert prepare([{"age": None}, {"age": 60}])["features"].tolist() == [[0.0], [2.0]]


def test_missing_values_are_a_value_like_any_other(people: Callable[..., Data]) -> None:
    data = people({"job": [None if row % 3 == 0 else "cook" for row in range(ROWS)]})
    job = data.preprocess.categorical[0]
    assert job.values == ("", "cook")
    # The same for whole numbers, which a gap turns into floats.
    data = people({"code": [None if row % 3 == 0 else row % 2 for row in range(ROWS)]})
    assert data.preprocess.categorical[1].values == ("", "0", "1")


def test_a_column_without_variation_is_left_out_and_noted(people: Callable[..., Data]) -> None:
    data = people({"hours": [40.0] * ROWS, "job": ["cook"] * ROWS})
    assert [one.name for one in data.preprocess.numeric] == ["age"]
    assert [one.name for one in data.preprocess.categorical] == ["code"]
    assert "left out, since all training rows are equal in it: hours, job" in data.facts.notes
    with pytest.raises(InputError, match="a column with different values"):
        people({"hours": [40.0] * ROWS}, table={"numeric": ["hours"]})


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_a_table_may_have_one_kind_of_columns_alone(people: Callable[..., Data], kind: str) -> None:
    data = people(table={kind: TABLE[kind]})
    assert _features(data.test).shape == (len(data.test), data.preprocess.width)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "numeric and categorical are empty"),
        ({"numeric": ["age"], "categorical": ["age", "job"]}, "age is given twice"),
        ({"numeric": ["age", "age"]}, "age is given twice"),
        ({"categorical": ["pay"]}, r"table.categorical: got 'pay'"),
        ({"numerical": ["age"]}, "Extra inputs"),
    ],
)
def test_invalid_tables(table: dict[str, Any], message: str) -> None:
    common = {"source": "csv", "files": {"train": "a"}, "columns": {"label": "pay"}}
    with pytest.raises(ValidationError, match=message):
        DataSpec(**common, table=table)


def test_a_table_excludes_images_and_texts() -> None:
    common = {"source": "csv", "files": {"train": "a"}, "table": TABLE}
    for others, message in (
        ({"text": {}}, "table and text are given"),
        ({"image": {}, "text": {}}, "image and table and text are given"),
        ({"augment": {}}, "augment is given for table data"),
        ({"sensitive_features": ["sex", "sex"]}, "sensitive_features names sex twice"),
    ):
        with pytest.raises(ValidationError, match=message):
            DataSpec(**common, **others)


def test_unknown_columns_are_named_at_once_with_the_nearest(people: Callable[..., Data]) -> None:
    table = {"numeric": ["aeg"], "categorical": ["jobs"]}
    with pytest.raises(InputError) as caught:
        people(table=table, columns={"label": "pays"}, classes=None)
    messages = [str(problem) for problem in caught.value.problems]
    assert len(messages) == 3
    assert 'did you mean "age"?' in messages[0]
    assert messages[0].startswith("data.table (of train)")
    assert 'did you mean "job"?' in messages[1]
    assert messages[2].startswith("data.columns (of train)")


def test_without_data_table_the_error_names_the_setting(people: Callable[..., Data]) -> None:
    with pytest.raises(InputError, match=r"The columns of a table are named in data\.table"):
        people(table=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age": ["a"] * ROWS}, rf"numeric \('age' in train\): got \"'a' in row 0 \({ROWS} such"),
        (
            {"age": ["1", "2 years"] * (ROWS // 2)},
            "Move a column of names to data.table.categorical",
        ),
        ({"hours": [1.0, float("inf")] * (ROWS // 2)}, r"inf in row 1 \(100 such rows\)"),
        ({"hours": [1.0, -1e101] * (ROWS // 2)}, "finite numbers"),
        ({"job": [["a", "b"]] * ROWS}, "texts, numbers or dates"),
        ({"job": [b"a"] * ROWS}, "texts, numbers or dates"),
    ],
)
def test_invalid_cells(
    people: Callable[..., Data], changes: dict[str, list[Any]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        people(changes)


def test_problems_of_several_columns_are_reported_at_once(people: Callable[..., Data]) -> None:
    with pytest.raises(InputError) as caught:
        people({"age": ["a"] * ROWS, "job": [b"a"] * ROWS})
    assert len(caught.value.problems) == 2


def test_too_many_values(people: Callable[..., Data], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limbeck.data.modalities.table._samples.MOST_VALUES", 100)
    with pytest.raises(InputError, match=r"'job' in train\): got '1\d\d values'.*at most 100"):
        people({"job": [f"job {row}" for row in range(ROWS)]})


def test_groups_lie_beside_validation_and_test_rows_in_their_order(
    people: Callable[..., Data],
) -> None:
    names = [f"{'even' if row % 2 == 0 else 'odd'}" for row in range(ROWS)]
    data = people({"age": list(range(ROWS)), "sex": names})
    assert data.train.groups == {}
    for split in (data.validation, data.test, data.test.for_evaluation()):
        ages = _rows(split)["age"].astype(int)
        assert split.groups["sex"].tolist() == [names[age] for age in ages]
        assert split.groups["sex"].dtype.kind == "U"


def test_a_column_may_be_input_and_group(people: Callable[..., Data]) -> None:
    data = people(sensitive_features=["job", "code"])
    assert data.test.groups["job"].tolist() == _rows(data.test)["job"].tolist()
    assert data.test.groups["code"].tolist() == _rows(data.test)["code"].tolist()


def test_rows_without_a_value_are_a_group(people: Callable[..., Data]) -> None:
    data = people({"sex": [None if row % 2 else "f" for row in range(ROWS)]})
    assert set(data.test.groups["sex"]) == {"f", "not stated"}


def test_a_class_label_is_a_group_by_its_name(tmp_path: Path, read: Read) -> None:
    content = {"age": list(range(ROWS)), "sex": [0, 1] * (ROWS // 2), "label": [0, 1] * (ROWS // 2)}
    table = datasets.Dataset.from_dict(content)
    table = table.cast_column("sex", datasets.ClassLabel(names=["woman", "man"]))
    table.to_parquet(tmp_path / "a.parquet")
    settings = {"files": {"train": "a.parquet"}, "table": {"numeric": ["age"]}}
    data = read(source="parquet", sensitive_features=["sex"], **settings)
    assert set(data.test.groups["sex"]) == {"woman", "man"}


def test_invalid_groups(people: Callable[..., Data]) -> None:
    with pytest.raises(
        InputError, match=r'data\.sensitive_features \(of train\).*did you mean "sex"\?'
    ):
        people(sensitive_features=["sexx"])
    with pytest.raises(InputError, match=r"at most 50.*Name a column with fewer values"):
        people({"sex": [f"name {row}" for row in range(ROWS)]}, test=0.5)
    with pytest.raises(InputError, match="bins the numbers"):
        people({"sex": list(range(ROWS))}, test=0.5)
    assert people({"sex": [row % 50 for row in range(ROWS)]}, test=0.5)


def test_groups_of_texts_from_csv(tmp_path: Path, read: Read) -> None:
    texts = {"text": [f"text {row}" for row in range(ROWS)], "label": [0, 1] * (ROWS // 2)}
    pd.DataFrame({**texts, "who": ["a", None] * (ROWS // 2)}).to_csv(tmp_path / "a.csv")
    data = read(
        source="csv", files={"train": "a.csv", "test": "a.csv"}, text={}, sensitive_features=["who"]
    )
    assert data.test.groups["who"].tolist() == ["a", "not stated"] * (ROWS // 2)


def test_training_rows_need_no_groups(tmp_path: Path, read: Read) -> None:
    code = """
import datasets

def make():
    rows = {"age": [*range(40)], "label": [0, 1] * 20}
    known = datasets.Dataset.from_dict({**rows, "sex": ["f", "m"] * 20})
    return {"train": datasets.Dataset.from_dict(rows), "validation": known, "test": known}
"""
    (tmp_path / "mine.py").write_text(code)
    settings = {"name": f"{tmp_path / 'mine.py'}:make", "table": {"numeric": ["age"]}}
    data = read(source="python", sensitive_features=["sex"], **settings)
    assert data.test.groups["sex"].tolist() == ["f", "m"] * 20
    with pytest.raises(InputError, match=r"data\.sensitive_features \(of test\): got 'who'"):
        read(source="python", sensitive_features=["who"], **settings)


def test_groups_of_images(tmp_path: Path, read: Read, png: Any) -> None:
    content = {"image": [png(row) for row in range(40)], "label": [0, 1] * 20}
    content["who"] = [f"{row % 3}" for row in range(40)]
    datasets.Dataset.from_dict(content).to_parquet(tmp_path / "a.parquet")
    data = read(source="parquet", files={"train": "a.parquet"}, sensitive_features=["who"])
    assert set(data.test.groups["who"]) <= {"0", "1", "2"}
    assert len(data.test.groups["who"]) == len(data.test)


def test_data_without_table_and_groups_keeps_its_name() -> None:
    plain = DataSpec(source="csv", files={"train": "a"})
    assert {"table", "sensitive_features"}.isdisjoint(plain.identity())
    grouped = DataSpec(source="csv", files={"train": "a"}, sensitive_features=["sex"])
    assert grouped.identity() == {**plain.identity(), "sensitive_features": ["sex"]}


def test_the_same_table_gets_the_same_name_and_another_another(people: Callable[..., Data]) -> None:
    first, again, other = people(), people(), people({"age": list(range(ROWS))})
    assert first.facts.fingerprint == again.facts.fingerprint != other.facts.fingerprint
    assert first.preprocess.fingerprint == again.preprocess.fingerprint
    assert first.preprocess.fingerprint != other.preprocess.fingerprint


@pytest.mark.parametrize(("name", "classes"), [("breast_cancer", 2), ("wine", 3), ("iris", 3)])
def test_tables_of_scikit_learn(read: Read, name: str, classes: int) -> None:
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")()
    columns = [str(column) for column in bunch.feature_names]
    data = read(source="sklearn", name=name, table={"numeric": columns})
    assert len(data.classes) == classes
    splits = (data.train, data.validation, data.test)
    features = np.concatenate([_features(split) for split in splits])
    scaled = StandardScaler().fit(bunch.data).transform(bunch.data)
    assert features.shape == scaled.shape
    assert sorted(np.concatenate([split.labels for split in splits])) == sorted(bunch.target)
    assert "CC-BY-4.0" in data.facts.licence


finite = st.floats(-1e99, 1e99)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(finite, st.just(float("nan"))), min_size=1, max_size=8))
def test_numbers_are_standardised_by_the_formula(values: list[float]) -> None:
    numbers = np.array(values)
    known = numbers[~np.isnan(numbers)]
    found = measure_numbers("x", numbers)
    if found is None:
        assert len(set(known)) <= (1 if len(known) == len(numbers) else 0)
        return
    assert found.flag == (len(known) < len(numbers))
    assert found.mean == pytest.approx(np.mean(known), rel=1e-11)
    assert found.std == pytest.approx(np.std(known) or 1.0, rel=1e-11)
    features = found.features(numbers)
    assert np.isfinite(features).all()


@pytest.mark.parametrize(
    "wrong", ["3 kg", "1_000", "1,000", "inf", "0x10", "٣", b"3", float("inf"), 1e101, "1e101"]
)
def test_invalid_numbers(wrong: object) -> None:
    with pytest.raises(ValueError, match="not a number"):
        number(wrong)


def test_names_do_not_depend_on_how_a_number_is_stored() -> None:
    assert name_of(3) == name_of(3.0) == name_of(np.float64(3)) == name_of("3")
    assert name_of(0.5) == "0.5"
    assert name_of(float("nan")) == name_of(None) == ""
    for wrong in ([1], {}, b"a", np.zeros(2)):
        with pytest.raises(ValueError, match="has no name"):
            name_of(wrong)


def test_values_that_training_lacks_share_a_feature() -> None:
    column = Categorical("job", ("cook", "nurse"))
    named = Column(("", "cook", "pilot"), np.array([0, 1, 2]))
    assert column.places(named).tolist() == [2, 0, 2]
    assert column.width == 3


def test_cells_of_numpy_result_in_the_same_features() -> None:
    columns = (Categorical("n", ("2", "3"), "number"), Categorical("day", ("2024-01-01",), "date"))
    prepare = TablePreprocess((Numeric("age", 40.0, 10.0, True),), columns)
    rows = [
        {"age": 50, "n": 2, "day": datetime.date(2024, 1, 1)},
        {"age": np.int8(50), "n": np.float32(2), "day": np.datetime64("2024-01-01", "ns")},
    ]
    first, second = prepare(rows)["features"].tolist()
    assert first == second == [1, 0, 1, 0, 0, 1, 0]


CODES = ["01234", "1234", "true", "NA", "", "0x1F", "1e5", " padded"]


def _csv(path: Path, columns: dict[str, list[str]]) -> None:
    lines = [",".join(columns)] + [",".join(cells) for cells in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n")


def test_cells_of_a_csv_file_are_read_as_texts(tmp_path: Path, read: Read) -> None:
    columns = {
        "zip": CODES * 10,
        "age": [str(row) if row % 9 else "NA" for row in range(80)],
        "label": ["007", "7"] * 40,
    }
    _csv(tmp_path / "a.csv", columns)
    data = read(
        source="csv",
        files={"train": "a.csv"},
        table={"numeric": ["age"], "categorical": ["zip"]},
        classes=["7", "007"],
    )
    (zips,) = data.preprocess.categorical
    assert set(zips.values) == {*CODES}
    assert zips.kind == "text"
    assert data.preprocess.numeric[0].flag
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    served = {
        row["age"]: data.preprocess([row])["features"][0] for row in rows if row["age"] != "NA"
    }
    for split in (data.train, data.validation, data.test):
        features = _features(split)
        for n in range(len(split)):
            age = split.raw(n)["text"].split("age: ")[-1].split(",")[0]
            if age in served:
                assert np.array_equal(features[n], served[age])
                assert data.classes[int(split.labels[n])] == ["007", "7"][int(age) % 2]


@pytest.mark.parametrize("text", ["01234", "true", "NA", "1e5", ""])
def test_a_served_text_gets_the_features_that_training_saw(
    tmp_path: Path, read: Read, text: str
) -> None:
    columns = {
        "row": [str(row) for row in range(80)],
        "code": [text, *CODES, "7"] * 8,
        "value": [text, "1234", "2.5", "7"] * 20,
        "label": ["a", "b"] * 40,
    }
    _csv(tmp_path / "a.csv", columns)
    table = {"numeric": ["row", "value"], "categorical": ["code"]}
    data = read(source="csv", files={"train": "a.csv"}, table=table, classes=["a", "b"])
    data.preprocess.save(tmp_path)
    prepare = json.loads((tmp_path / "preprocess.json").read_text())
    for split in (data.train, data.validation, data.test):
        for n, features in enumerate(_features(split)):
            row = int(split.raw(n)["text"].split("row: ")[1].split(",")[0])
            given = {name: cells[row] for name, cells in columns.items()}
            assert np.array_equal(load(tmp_path)([given])["features"][0], features)
            assert np.array_equal(_by_the_card(prepare, given), features)


@pytest.mark.parametrize(
    ("texts", "note"),
    [
        (["01234", "7"], "leading zeros, which are lost: x ('01234'). For a code or a category"),
        (["-007.5", "7"], "leading zeros, which are lost: x ('-007.5')"),
        (["TRUE", "false", "3"], "true and false, read as 1 and 0: x ('TRUE')"),
        ([" NA", "3"], "words, read as missing: x ('NA')"),
        (["0", "0.5", "-0", "10", ""], ""),
    ],
)
def test_what_a_numeric_column_changes_is_noted(
    tmp_path: Path, read: Read, texts: list[str], note: str
) -> None:
    rows = {"x": texts * 20, "y": [str(row) for row in range(20 * len(texts))]}
    _csv(tmp_path / "a.csv", {**rows, "label": ["a", "b"] * (10 * len(texts))})
    table = {"numeric": ["x", "y"]}
    data = read(source="csv", files={"train": "a.csv"}, table=table, classes=["a", "b"])
    found = [one for one in data.facts.notes if one.startswith("numeric columns with")]
    assert len(found) == bool(note)
    assert all(note in one for one in found)


def test_booleans_of_a_numeric_column_are_noted_and_dates_are_refused(
    people: Callable[..., Data],
) -> None:
    notes = " ".join(people({"hours": [True, False] * (ROWS // 2)}).facts.notes)
    assert "true and false, read as 1 and 0: hours ('true')" in notes
    for dates in (["2024-01-01", "2024-01-02"], [date(2024, 1, 1), date(2024, 1, 2)]):
        with pytest.raises(InputError, match=r"data\.table\.numeric \('age' in train\).*2024"):
            people({"age": dates * (ROWS // 2)})


@pytest.mark.parametrize(
    ("trained", "kind", "served", "place"),
    [
        (["01", "02"], "text", 1, 0),
        (["01", "1"], "text", 1, 1),
        (["01", "001"], "text", 1, 2),
        (["1", "2"], "number", "2.0", 1),
        (["1", "2"], "number", " 2", 1),
        ([str(2**53), str(2**53 + 1)], "number", str(2**53 + 1), 1),
        (["False", "True"], "boolean", "true", 1),
        (["false", "true"], "text", True, 1),
        (["2024-01-01", "2024-01-02"], "date", "2024-01-02T00:00", 1),
        (["a", "b"], "text", "A", 2),
        (["1", "2"], "text", "01", 2),
    ],
)
def test_a_value_of_another_type_than_in_training(
    trained: list[str], kind: Any, served: object, place: int
) -> None:
    column = Categorical("code", tuple(trained), kind)
    features = TablePreprocess((), (column,))([{"code": served}])["features"]
    assert features.argmax().item() == place


def test_a_column_may_be_numbers_in_one_split_and_texts_in_another(
    tmp_path: Path, read: Read
) -> None:
    code = [row % 3 for row in range(60)]
    rows = {"code": code, "x": [float(row) for row in range(60)], "label": [0, 1] * 30}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    texts = {"code": [f"{one}" for one in code], "x": [f" {row}" for row in range(60, 120)]}
    test = datasets.Dataset.from_dict({**texts, "label": [0, 1] * 30})
    test.to_parquet(tmp_path / "test.parquet")
    files = {"train": "train.parquet", "test": "test.parquet"}
    table = {"numeric": ["x"], "categorical": ["code"]}
    data = read(source="parquet", files=files, table=table)
    assert _features(data.test)[:, 1:].argmax(1).tolist() == code
    assert not [note for note in data.facts.notes if "lacks" in note]


def test_identifiers_taken_for_numbers_and_unknown_values_are_noted(
    people: Callable[..., Data],
) -> None:
    data = people(
        {"age": [2**53 + row for row in range(ROWS)], "job": [f"{row}" for row in range(ROWS)]}
    )
    notes = " ".join(data.facts.notes)
    assert "numbers beyond 2^53, whose last digits are lost: age" in notes
    assert f"test: values that training lacks: job in {len(data.test)} rows" in notes


def test_a_csv_file_with_rows_of_other_lengths_or_columns_named_twice(
    tmp_path: Path, read: Read
) -> None:
    table = {"numeric": ["x"]}
    for text, message in (
        ("x,label\n1,0\n2,1,3\n", "Expected 2 columns, got 3"),
        ("x,label\n1,0\n2\n", "Expected 2 columns, got 1"),
        ("x,x,label\n1,2,0\n", "x more than once"),
        ("", "Empty CSV"),
    ):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            read(source="csv", files={"train": "a.csv"}, table=table)
    (tmp_path / "a.csv").write_bytes(b"x,label\n\xe9,0\n")
    with pytest.raises(InputError, match="UTF8"):
        read(source="csv", files={"train": "a.csv"}, table=table)
