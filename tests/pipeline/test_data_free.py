"""Data-free distillation in a recipe: no training row is read, and the control is random inputs."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from limbeck.errors import InputError
from limbeck.pipeline.load_recipe import read, shipped_recipes
from limbeck.pipeline.runner import run
from limbeck.pipeline.stages.distill import Distill
from limbeck.pipeline.validate import validate

CONTENT = read(shipped_recipes()["data_free/adversarial"])


def content(**settings):
    found = copy.deepcopy(CONTENT)
    found["data"]["max_samples"] = {"train": 200, "validation": 60, "test": 80}
    found["teacher"] |= {"width": 4, "expect": {"above_chance": False}}
    found["seeds"], found["threads"], found["profiles"] = [0], 1, {}
    small = {"scheme": "data_free", "steps": 3, "generator_width": 4, "batch_size": 16}
    found["stages"] = [
        {"train_teacher": {"epochs": 1}},
        {"distill": {**small, "validate_every": 2, **settings}},
        {"export": {"format": "onnx"}},
    ]
    return found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"steps": None, "epochs": 2},
            r"distill\.epochs: got 2; allowed: `steps`, with `scheme: d",
        ),
        ({"cache_teacher": True}, r"distill\.cache_teacher: got True; .*reads no training data"),
        ({"student_steps": 0}, r"distill\.student_steps: got 0"),
        ({"steps": 3, "epochs": 3}, r"distill\.steps: got 3; allowed: `epochs` or `steps`"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=rf"stages\.{message}"):
        validate(content(**settings))


class Unread:
    """A training split of which nothing may be read."""

    def __getattribute__(self, name):
        raise AssertionError(f"the training split was read: {name}")


@pytest.mark.slow
def test_no_training_row_is_read(tmp_path, monkeypatch, quick_measuring):
    read_by = []

    def guard(name):
        plain = getattr(Distill, name)

        def guarded(self, *arguments, **more):
            [where] = [one for one in arguments if hasattr(one, "accelerator")]
            locked = replace(where, data=replace(where.data, train=Unread()))
            read_by.append(name)
            return plain(self, *(locked if one is where else one for one in arguments), **more)

        monkeypatch.setattr(Distill, name, guarded)

    def guarded_trial(self, trial, *, where):
        context = trial.context
        _ = trial.student, trial.teachers  # built with an example, as for any stage
        trial.context = replace(context, data=replace(context.data, train=Unread()))
        try:
            dry_run(self, trial, where=where)
        finally:
            trial.context = context
        read_by.append("dry_run")

    dry_run = Distill.dry_run
    guard("run")
    monkeypatch.setattr(Distill, "dry_run", guarded_trial)
    run(validate(content()), out=tmp_path)
    assert read_by == ["dry_run", "run"]
    record = json.loads((tmp_path / "stages" / "02-distill" / "record.json").read_text())
    assert [one["role"] for one in record["artefacts"]] == ["student", "baseline"]
    assert [one["label"] for one in record["artefacts"]][1] == "student on random inputs"
    [curve, control] = record["curves"]
    assert [row["step"] for row in curve["rows"]] == [2, 3]
    assert "train/generator/adversarial/raw" in curve["rows"][0]
    assert {key for key in control["rows"][0] if key.endswith("raw")} == {"train/logit_mse/raw"}
    assert (tmp_path / "student" / "model.onnx").is_file()
