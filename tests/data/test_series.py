"""Windows of a series: no label of one part is in another, and inputs never see their future."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limbeck.data.load import load
from limbeck.data.preprocess import load as load_preprocess
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError

ROWS, WINDOW, HORIZON = 400, 10, 4


def values(rows: int = ROWS) -> np.ndarray:
    """Return two series; the first counts the rows."""
    random = np.random.default_rng(0)
    return np.stack([np.arange(rows) * 1.0, random.normal(5, 3, rows)], axis=1)


def write(path: Path, table: np.ndarray) -> str:
    pq.write_table(pa.table({"count": table[:, 0], "load": table[:, 1]}), path)
    return str(path)


@pytest.fixture
def read(tmp_path):
    def read_(table: np.ndarray | None = None, files: dict | None = None, **series):
        found = files or {
            "train": write(tmp_path / "t.parquet", values() if table is None else table)
        }
        return load(
            DataSpec.model_validate(
                {
                    "source": "parquet",
                    "files": found,
                    "validation": 0.25,
                    "test": 0.2,
                    "series": {
                        "columns": ["count", "load"],
                        "window": WINDOW,
                        "horizon": HORIZON,
                        **series,
                    },
                }
            ),
            workdir=tmp_path,
        )

    return read_


def rows_of(data, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the source in the inputs and in the labels of a split."""
    split = getattr(data, name)
    batch = split.__getitems__(range(len(split)))
    scale = data.preprocess.series[0]
    inputs = batch["series"][..., 0].numpy() * scale.std + scale.mean
    return np.rint(inputs).astype(int), np.rint(batch["labels"][..., 0].numpy()).astype(int)


def test_labels_follow_their_window_and_parts_share_none(read):
    data, seen = read(), {}
    for name in ("train", "validation", "test"):
        inputs, labels = rows_of(data, name)
        assert (np.diff(inputs, axis=1) == 1).all()
        assert (labels == inputs[:, -1:] + 1 + np.arange(HORIZON)).all()
        seen[name] = set(labels.ravel().tolist())
    # 80 of 400 rows are the test, a quarter of the rest the validation.
    assert seen["test"] == set(range(320, 400))
    assert seen["validation"] == set(range(240, 320))
    assert seen["train"] == set(range(WINDOW, 240))
    # The first test window reaches back into the validation, as a forecast does.
    assert rows_of(data, "test")[0][0].tolist() == list(range(310, 320))
    assert "no label of one part is in another" in data.facts.notes[0]
    assert data.facts.modality == "series"


def test_the_scale_is_that_of_the_training_rows(read):
    data, table = read(), values()[:240]
    for place, channel in enumerate(data.preprocess.series):
        assert channel.mean == pytest.approx(table[:, place].mean())
        assert channel.std == pytest.approx(table[:, place].std())
    batch = data.train.__getitems__([0, 5])
    expected = (values()[5 : 5 + WINDOW] - table.mean(0)) / table.std(0)
    np.testing.assert_allclose(batch["series"][1].numpy(), expected, atol=1e-5)
    assert [one.name for one in data.targets] == ["count", "load"]


def test_targets_stride_and_a_maximum(read):
    data = read(targets=["load"], stride=7)
    assert data.train.__getitems__([0])["labels"].shape == (1, HORIZON, 1)
    assert rows_of(data, "validation")[0].shape[0] == 77
    inputs = data.train.__getitems__(range(len(data.train)))["series"]
    assert len(inputs) == -(-(240 - WINDOW - HORIZON + 1) // 7)
    assert data.outputs[:4] == ("load+1 q0.1", "load+1 q0.5", "load+1 q0.9", "load+2 q0.1")
    assert data.preprocess.model_inputs() == {"channels": 2, "window": WINDOW}


def test_files_of_their_own_are_series_of_their_own(read, tmp_path):
    files = {
        "train": write(tmp_path / "a.parquet", values(100)),
        "validation": write(tmp_path / "b.parquet", values(60)),
        "test": write(tmp_path / "c.parquet", values(50)),
    }
    data = read(files=files)
    lengths = [len(one) for one in (data.train, data.validation, data.test)]
    assert lengths == [rows - WINDOW - HORIZON + 1 for rows in (100, 60, 50)]


def test_a_missing_value_is_the_mean_as_input_and_no_label(read):
    table = values()
    table[30, 1] = np.nan
    data = read(table)
    batch = data.train.__getitems__([21, 20])  # rows 21 to 30, and 20 to 29 with label row 30
    assert batch["series"][0, -1, 1] == 0
    assert np.isnan(batch["labels"][1, 0, 1].item())
    assert "1 missing values in train" in " ".join(data.facts.notes)


def test_the_preprocessing_is_loaded_and_reads_what_users_have(read, tmp_path):
    data = read()
    data.preprocess.save(tmp_path)
    prepare = load_preprocess(tmp_path)
    assert prepare == data.preprocess
    table = values()[:WINDOW]
    expected = data.train.__getitems__([0])["series"].numpy()
    rows = [{"count": one, "load": two} for one, two in table]
    for value in (
        table,
        {"count": table[:, 0].tolist(), "load": [str(one) for one in table[:, 1]]},
        rows,
        [{"count": -1, "load": 0}, *rows],  # more steps than the window
    ):
        found = prepare([prepare.read(value, where="input")])["series"]
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((9, 2)), "input: got '9 steps'; allowed: at least 10, the model's window"),
        (np.zeros((10, 3)), r"an array \[10, 3\].*\[steps, 2\]: count, load"),
        ({"count": [1] * 10}, "no column load"),
        ({"count": [1] * 10, "load": [1] * 9}, r"lengths \[9, 10\]"),
        ([{"count": 1, "load": "high"}] * 10, "input, step 0, load: got 'high'; allowed: a number"),
        ("a text", "an array .steps, columns., a mapping of columns"),
    ],
)
def test_invalid_input_is_refused(read, value, message):
    with pytest.raises(InputError, match=message):
        read().preprocess.read(value, where="input")


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ({"targets": ["oil"]}, "series.targets: got 'oil'; allowed: columns of the series"),
        ({"columns": ["count", "count"]}, "columns names count twice"),
        ({"quantiles": [0.9, 0.1]}, "at least one level, ascending"),
        ({"window": 390}, "400 rows; allowed|no rows"),
        ({"window": 398}, "got '400 rows'; allowed: at least 402: window and horizon"),
        ({"columns": ["count", "laod"]}, 'did you mean "load"'),
    ],
)
def test_invalid_settings_are_refused(read, series, message):
    with pytest.raises(Exception, match=message):
        read(**series)


def test_a_constant_column_and_other_labels_are_refused(read, tmp_path):
    table = values()
    table[:, 1] = 3
    with pytest.raises(InputError, match=r"'load' in train.*no two different numbers"):
        read(table)
    with pytest.raises(Exception, match="targets is given with series, whose labels"):
        DataSpec.model_validate(
            {
                "source": "csv",
                "files": {"train": "t.csv"},
                "targets": ["load"],
                "series": {"columns": ["load"], "window": 3, "horizon": 1},
            }
        )
