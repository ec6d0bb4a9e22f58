"""`limbeck diagnose` on a finished run, and its refusals."""

import json
import shutil

import pytest
import yaml

from limbeck.pipeline.load_recipe import resolve

RECIPE = """
name: tiny
task: image_classification
data: {source: sklearn, name: digits, max_samples: {train: 200, validation: 60, test: 80}}
teacher: {source: limbeck, name: digits_cnn, width: 6, expect: {above_chance: false}}
student: {source: limbeck, name: digits_cnn, width: 2}
seeds: [3, 4]
threads: 1
stages:
  - train_teacher: {epochs: 4, checkpoint_every: 0}
  - distill: {epochs: 2, checkpoint_every: 0, batch_size: 32, baseline: {learning_rate: 0.01}}
  - export: {format: onnx}
  - evaluate: {evaluations: [diagnosis]}
"""


@pytest.fixture(scope="module")
def run(forks, tmp_path_factory):
    place = tmp_path_factory.mktemp("diagnose")
    (place / "tiny.yaml").write_text(RECIPE)
    ended = forks("run", "tiny.yaml", "--quiet", cwd=place)
    assert ended.code == 0, ended.err
    return place / "runs" / "tiny"


def test_the_command_and_the_evaluation_of_the_recipe_find_the_same(run, forks, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(run, copy)
    before = json.loads((copy / "run.json").read_text())["evaluation"]["results"][0]["result"]
    ended = forks("diagnose", copy, "--quiet", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found == before
    assert found["seeds"]["numbers"] == [3, 4]
    assert [one["split"] for one in found["splits"]] == ["train", "validation", "test"]
    assert [one["samples"] for one in found["splits"]] == [200, 60, 80]
    assert [one["term"] for one in found["terms"]] == ["task", "soft_target_kl"]
    for at in ("start", "end"):
        assert sum(one[at] for one in found["terms"]) == pytest.approx(1)
    assert {one["role"] for one in found["curves"]} == {"teacher", "student", "baseline"}
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert "Diagnosis of the distillation" in page
    assert "trained with learning_rate 0.01 (student 0.003)" in page


def test_the_text_has_the_outcome_first(run, forks, tmp_path):
    ended = forks("diagnose", run, "--quiet", cwd=tmp_path)
    assert ended.code == 0, ended.err
    saved = json.loads((run / "run.json").read_text())["evaluation"]["results"][0]["result"]
    assert ended.out.startswith(saved["summary"])
    assert "The teacher's targets" in ended.out
    assert f"1. {saved['causes'][0]['evidence']}" in ended.out


def test_what_cannot_be_diagnosed_is_refused(run, forks, tmp_path):
    ended = forks("diagnose", tmp_path, cwd=tmp_path)
    assert (ended.code, "the folder of a run of limbeck" in ended.err) == (2, True)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "run.json").unlink()
    ended = forks("diagnose", unfinished, cwd=tmp_path)
    assert (ended.code, "finish the run with `limbeck run RECIPE" in ended.err) == (2, True)
    pruned = tmp_path / "pruned"
    pruned.mkdir()
    content = resolve("vision/pipeline_a").model_dump(mode="json")
    (pruned / "recipe.yaml").write_text(yaml.safe_dump(content))
    ended = forks("diagnose", pruned, cwd=tmp_path)
    assert (ended.code, "without a distillation" in ended.err) == (2, True)
