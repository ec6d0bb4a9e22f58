"""Training with few labels: `data.labelled`, and trainings on labels alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

import limbeck
from limbeck.data.label import UNLABELLED
from limbeck.data.load import Data, load
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError
from limbeck.objective import Objective, Term
from limbeck.pipeline import train as training


def digits(**given: Any) -> Data:
    return load(DataSpec(source="sklearn", name="digits", **given), workdir=Path())


def test_some_training_rows_keep_their_label_in_equal_shares_of_classes() -> None:
    whole, few = digits(), digits(labelled=50)
    counts = few.train.class_counts(10)
    assert sum(counts) == 50
    assert set(counts) <= {4, 5, 6}
    known = few.train.labels != UNLABELLED
    assert torch.equal(few.train.labels[known], whole.train.labels[known])
    for name in ("validation", "test"):
        assert torch.equal(getattr(few, name).labels, getattr(whole, name).labels)
    assert any("50 of 1,294 training rows keep their label" in note for note in few.facts.notes)
    assert few.facts.fingerprint != whole.facts.fingerprint


def test_the_seed_of_the_splits_draws_them() -> None:
    same, again = digits(labelled=50), digits(labelled=50)
    assert torch.equal(same.train.labels, again.train.labels)
    other = digits(labelled=50, split_seed=1)
    assert not torch.equal(same.train.labels, other.train.labels)


@pytest.mark.parametrize("count", [9, 1_295])
def test_a_number_that_is_not_there_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=rf"data\.labelled: got {count}; allowed: 10 to 1,294"):
        digits(labelled=count)


def test_rows_with_a_label_are_repeated_to_the_length_of_the_split() -> None:
    split = digits(labelled=50).train
    known = split.labelled()
    assert len(known) == len(split)
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))
    batches = [known.__getitems__(rows) for rows in order.split(64)]
    index = torch.cat([batch["index"] for batch in batches])
    assert all(bool(batch["labelled"].all()) for batch in batches)
    expected = torch.nonzero(split.labels != UNLABELLED).flatten()
    found, counts = index.unique(return_counts=True)
    assert torch.equal(found, expected)
    assert set(counts.tolist()) <= {len(split) // 50, len(split) // 50 + 1}
    one = split.__getitems__(batches[0]["index"])
    assert torch.equal(one["image"], batches[0]["image"])
    whole = digits().train
    assert whole.labelled() is whole


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ([Term("task")], True),
        ([Term("label_smoothing", smoothing=0.1)], True),
        ([Term("task"), Term("soft_target_kl", temperature=2.0)], False),
        ([Term("dkd")], True),
    ],
)
def test_an_objective_on_labels_alone_is_known(terms: list[Term], expected: bool) -> None:
    assert Objective(terms).needs_labels_only is expected


@pytest.mark.slow
def test_teacher_and_baseline_read_labelled_rows_and_the_student_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_measuring: None
) -> None:
    seen: dict[str, set[int]] = {}
    steps: dict[str, int] = {}
    fit = training.fit

    def spied(scheme: Any, **given: Any) -> Any:
        rows, split = seen.setdefault(given["folder"].name, set()), given["train"]
        original = type(split).__getitems__

        class Seen(type(split)):  # type: ignore[misc]
            def __getitems__(self, indices: Any) -> Any:
                batch = original(self, indices)
                rows.update(batch["index"].tolist())
                return batch

        split.__class__ = Seen
        result = fit(scheme, **given)
        split.__class__ = Seen.__base__
        steps[given["folder"].name] = result.steps
        return result

    monkeypatch.setattr(training, "fit", spied)
    model = {"source": "limbeck", "name": "digits_cnn", "width": 4}
    recipe = {
        "name": "few",
        "task": "image_classification",
        "data": {"source": "sklearn", "name": "digits", "labelled": 50},
        "teacher": {**model, "expect": {"above_chance": False}},
        "student": model,
        "budget": {},
        "threads": 1,
        "stages": [{"train_teacher": {"epochs": 1}}, {"distill": {"epochs": 1}}, {"export": {}}],
    }
    limbeck.run(limbeck.Recipe.model_validate(recipe), out=tmp_path / "run")
    assert {name: len(rows) for name, rows in seen.items()} == {
        "01-train_teacher": 50,
        "baseline": 50,
        "02-distill": 1_294,
    }
    assert len(set(steps.values())) == 1


def test_a_missing_label_of_training_names_the_setting(tmp_path: Path) -> None:
    rows = {"x": [1.0, 2.0, 3.0, 4.0] * 5, "label": ["a", None, "a", "b"] * 5}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    files = {"train": str(tmp_path / "a.parquet")}
    spec = DataSpec(source="parquet", files=files, table={"numeric": ["x"]})
    with pytest.raises(InputError, match=r"no label in 5 of 20 rows.*data\.unlabelled: true"):
        load(spec, workdir=tmp_path)
