"""The label-only baseline of a distillation, with training settings of its own."""

from __future__ import annotations

import copy
import json

import pytest

from limbeck.errors import InputError
from limbeck.pipeline.load_recipe import read, resolve, shipped_recipes
from limbeck.pipeline.runner import run
from limbeck.pipeline.validate import validate
from limbeck.report.load import load_run
from limbeck.report.page import notes
from limbeck.sweep.plan import with_settings

DIGITS = read(shipped_recipes()["vision/digits"])


def digits(baseline):
    content = copy.deepcopy(DIGITS)
    content["stages"][1]["distill"]["baseline"] = baseline
    return content


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (True, r"baseline: got True; allowed: False, or a mapping with keys of learning_rate"),
        ("tuned", r"baseline: got 'tuned'; allowed: False, or a mapping with keys of"),
        ({"learning_rate": 0}, r"^stages\.distill\.baseline\.learning_rate: got 0; .*than 0$"),
        ({"epochs": 40}, r"^stages\.distill\.baseline\.epochs: got 40; allowed: one of learn.*$"),
        ({"lr_schedule": "step"}, r"baseline\.lr_schedule: got 'step'; allowed: 'cosine'"),
    ],
)
def test_only_settings_that_change_no_cost_are_allowed(baseline, message):
    with pytest.raises(InputError, match=message):
        validate(digits(baseline))


def test_a_sweep_may_vary_the_baselines_learning_rate():
    recipe = resolve("vision/digits")
    varied = {"stages.distill.baseline.learning_rate": 0.02}
    [(_, _), (_, stage), *_] = with_settings(recipe.model_dump(mode="json"), varied).parsed_stages()
    assert stage.baseline.own == {"learning_rate": 0.02}


@pytest.mark.slow
def test_only_the_baseline_has_the_settings_and_the_report_states_them(tmp_path, quick_measuring):
    def records(name, baseline):
        recipe = resolve(
            "vision/digits", ["profile=smoke", f"stages.distill.baseline={json.dumps(baseline)}"]
        )
        recipe = recipe.model_copy(update={"stages": [*recipe.stages[:2], recipe.stages[-2]]})
        run(recipe, out=tmp_path / name)
        path = tmp_path / name / "stages" / "02-distill" / "record.json"
        return json.loads(path.read_text())

    plain, tuned = records("plain", {}), records("tuned", {"learning_rate": 0.004})
    files = plain["files"], tuned["files"]
    assert files[0]["model.safetensors"] == files[1]["model.safetensors"]
    changed = "baseline/model.safetensors"
    assert files[0][changed] != files[1][changed]
    [before], [after] = (
        [curve["rows"] for curve in one["curves"] if curve["role"] == "baseline"]
        for one in (plain, tuned)
    )
    assert [row["step"] for row in before] == [row["step"] for row in after]
    assert after[0]["learning_rate"] == pytest.approx(before[0]["learning_rate"] / 5)
    note = "The label-only student was trained with learning_rate 0.004 (student 0.02)."
    assert note in tuned["notes"]
    assert not plain["notes"]
    assert note in [text for _, text in notes(load_run(tmp_path / "tuned"))]
    record = json.loads((tmp_path / "tuned" / "run.json").read_text())
    assert record["baseline"]["what"] == "labels alone"
