"""A student as the teacher of the next: born-again generations, and distillation from itself."""

from __future__ import annotations

import copy
import json

import pytest

from limbeck.core import fingerprint
from limbeck.errors import InputError
from limbeck.export.weights import load_weights
from limbeck.pipeline.check import check
from limbeck.pipeline.load_recipe import read, shipped_recipes
from limbeck.pipeline.objective_config import ObjectiveConfig
from limbeck.pipeline.runner import run
from limbeck.pipeline.validate import validate
from limbeck.schemes.offline import OfflineSettings

FIRST = {"distill": {"epochs": 1, "objective": ["task"]}}
NEXT = {"distill": {"epochs": 1, "teacher": "student", "init": "fresh", "baseline": False}}


def content(*stages):
    recipe = copy.deepcopy(read(shipped_recipes()["vision/mutual"]))
    recipe["stages"] = list(stages)
    return recipe


def test_a_generation_needs_a_student_before_it_and_no_teacher():
    validate(content(FIRST, NEXT, NEXT))
    with pytest.raises(InputError, match="distill: got 'no student'; allowed: a stage before it"):
        validate(content(NEXT))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "pupil"}, r"distill\.teacher: got 'pupil'"),
        ({"init": "new"}, r"distill\.init: got 'new'; allowed: 'same' or 'fresh'"),
        ({"init": {"layers": []}}, r"distill\.init\.layers: got \[\]"),
        ({"objective": ["task"]}, r"distill\.teacher: got 'student'; allowed: a term against"),
        ({"scheme": "mutual"}, r"distill\.teacher: got 'student'; .*a scheme that uses one"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        validate(content(FIRST, {"distill": NEXT["distill"] | settings}))


@pytest.mark.parametrize(("init", "whole"), [("same", False), ("fresh", True)])
def test_a_fresh_student_has_the_structure_of_the_recipe(tmp_path, monkeypatch, init, whole):
    tried = []
    plain = ObjectiveConfig.try_objective

    def count(self, trial, **more):
        tried.append(sum(one.numel() for one in trial.student.parameters()))
        plain(self, trial, **more)

    monkeypatch.setattr(ObjectiveConfig, "try_objective", count)
    prune = {"prune": {"method": "channels", "ratio": 0.5}}
    later = {"distill": NEXT["distill"] | {"init": init}}
    check(validate(content(FIRST, prune, later)), out=tmp_path / "run")
    assert (tried[0] == tried[1]) is whole


@pytest.mark.slow
def test_each_generation_learns_from_the_one_before(tmp_path, monkeypatch, quick_measuring):
    seen = []
    plain = OfflineSettings.build_scheme

    def build(self, student, inputs):
        teacher = inputs.teacher and inputs.teacher.model
        seen.append([one and copy.deepcopy(one).cpu() for one in (student, teacher)])
        return plain(self, student, inputs)

    monkeypatch.setattr(OfflineSettings, "build_scheme", build)
    again = {"distill": NEXT["distill"] | {"init": "same"}}
    fresh = {"distill": NEXT["distill"] | {"baseline": {}}}
    copied = {"distill": NEXT["distill"] | {"init": {"layers": {"": ""}}}}
    recipe = content(FIRST, fresh, NEXT, again, copied, {"export": {"format": "onnx"}})
    recipe["seeds"], recipe["threads"], recipe["profiles"] = [0], 1, {}
    run(validate(recipe), out=tmp_path)

    def equal(one, other):
        return fingerprint.of_tensors(one.state_dict()) == fingerprint.of_tensors(
            other.state_dict()
        )

    trials, [first, second, third, fourth, fifth] = seen[:-5], seen[-5:]
    assert len(trials) == 5
    for (_, teacher), number in ((second, 1), (third, 2), (fourth, 3), (fifth, 4)):
        before = copy.deepcopy(first[0])
        load_weights(before, tmp_path / "stages" / f"0{number}-distill" / "model.safetensors")
        assert equal(teacher, before)
    assert not equal(second[0], first[0])  # weights of another seed in each generation
    assert not equal(third[0], second[0])
    assert equal(fourth[0], fourth[1])  # continues from the student that teaches it
    assert equal(fifth[0], fifth[1])  # all of the teacher's layers are copied
    record = json.loads((tmp_path / "stages" / "05-distill" / "record.json").read_text())
    assert record["notes"][0].startswith("initialised from the teacher: all <- all")
    assert first[1] is None
    assert not any(parameter.requires_grad for parameter in second[1].parameters())
    assert (tmp_path / "stages" / "02-distill" / "baseline").is_dir()
    assert not (tmp_path / "stages" / "03-distill" / "baseline").exists()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"blok1": "block1"}, r'distill.init.layers: got .blok1.; .* did you mean "block1"'),
        ([0, 1], r"distill.init.layers: got \[0, 1\]; .*one stack of 2 layers in the student"),
    ],
)
def test_layers_that_do_not_fit_are_refused_before_the_run(tmp_path, layers, message):
    first, second = (
        {"distill": FIRST["distill"]},
        {"distill": NEXT["distill"] | {"init": {"layers": layers}}},
    )
    with pytest.raises(InputError, match=message):
        check(validate(content(first, second)), out=tmp_path / "run")


def test_layers_need_the_teacher_for_an_objective_of_labels_too():
    settings = {"epochs": 1, "objective": ["task"], "init": {"layers": [0]}}
    with pytest.raises(InputError, match="distill: got 'no teacher'"):
        validate(content({"distill": settings}))
