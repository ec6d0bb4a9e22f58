"""Unchanged stages are reused, and those that depend on a change are repeated."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

STAGES = ("01-train_teacher", "02-distill", "03-quantize", "04-export")


@pytest.fixture(scope="module")
def once(forks, tiny, tmp_path_factory):
    """The folder of one finished run, to be copied."""
    folder = tmp_path_factory.mktemp("once")
    ended = forks("run", tiny, "--out", "run", cwd=folder, quick=True)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def again(forks, tiny, once, tmp_path):
    """Run again in a copy of the folder, and return the rewritten records."""
    shutil.copytree(once, tmp_path / "copy")
    here = tmp_path / "copy"

    def command(*settings: str, before=None):
        if before is not None:
            before(here / "run")
        were = stamps(here / "run")
        more = [part for setting in settings for part in ("--set", setting)]
        ended = forks("run", tiny, "--out", "run", *more, cwd=here, quick=True)
        assert ended.code == 0, ended.err
        return {name for name, stamp in stamps(here / "run").items() if were.get(name) != stamp}

    command.folder = here / "run"
    return command


def stamps(run: Path) -> dict[str, int]:
    found = [*run.rglob("record.json"), *run.rglob("examination.json")]
    return {
        path.relative_to(run).as_posix(): path.stat().st_mtime_ns
        for path in found
        if "student" not in path.parts
    }


def records(*stages: str) -> set[str]:
    return {f"stages/{stage}/record.json" for stage in stages}


def test_nothing_is_done_twice(again):
    assert again() == set()


def test_a_changed_stage_and_all_after_it_are_done_anew(again):
    redone = again("stages.distill.learning_rate=0.01")
    assert redone == records(*STAGES[1:]) | {"examination.json"}


def test_a_changed_budget_changes_the_verdict_alone(again):
    assert again("budget={size_kb: 0.001}") == set()
    result = json.loads((again.folder / "run.json").read_text())
    assert [line["met"] for line in result["budget"]] == [False]


def test_how_often_it_saves_logs_and_reads_changes_nothing(again):
    settings = ("checkpoint_every=5", "log_every=3", "num_workers=1")
    assert again(*(f"stages.train_teacher.{setting}" for setting in settings)) == set()


def test_a_new_seed_leaves_the_others_as_they_are(again):
    redone = again("seeds=[3, 4]")
    assert redone == {f"seeds/4/{name}" for name in records(*STAGES) | {"examination.json"}}
    assert (again.folder / "seeds/4/student/model.onnx").is_file()
    result = json.loads((again.folder / "run.json").read_text())
    assert [one["seed"] for one in result["chain"][0]["measured"]] == [3, 4]
    assert {curve["seed"] for curve in result["curves"]} == {3, 4}
    assert again() == set()
    assert not (again.folder / "seeds").exists() or not any((again.folder / "seeds").iterdir())


def test_a_teacher_with_a_seed_is_trained_once_for_all_seeds(again):
    redone = again("seeds=[3, 4]", "stages.train_teacher.seed=7")
    seed_4 = {f"seeds/4/{name}" for name in records(*STAGES[1:]) | {"examination.json"}}
    assert redone == seed_4 | records(*STAGES) | {"examination.json"}
    result = json.loads((again.folder / "run.json").read_text())
    teacher, student = result["chain"][0], result["chain"][1]
    assert len({one["digest"] for one in teacher["measured"]}) == 1
    assert len({one["digest"] for one in student["measured"]}) == 2
    assert len(teacher["seconds"]["values"]) == 1  # spent once
    assert [one["seed"] for one in result["curves"] if one["role"] == "teacher"] == [7]
    assert any("of seed 7, for all 2 seeds" in note for note in result["notes"])
    assert again("seeds=[4, 3]", "stages.train_teacher.seed=7") == redone - {
        *records(STAGES[0]),
        *(f"seeds/4/{name}" for name in records(*STAGES[1:]) | {"examination.json"}),
    } | {f"seeds/3/{name}" for name in records(*STAGES[1:]) | {"examination.json"}}


def test_tampered_weights_are_made_anew_to_the_same_bits(again):
    weights = Path("stages/02-distill/model.safetensors")
    good = (again.folder / weights).read_bytes()

    def tamper(run):
        (run / weights).write_bytes(good[:-1] + b"\x00\x01")

    assert again(before=tamper) == records(STAGES[1])
    assert (again.folder / weights).read_bytes() == good


def test_a_tampered_student_is_shipped_anew(again):
    file = again.folder / "student" / "model.onnx"
    good = file.read_bytes()
    again(before=lambda run: file.write_bytes(b"not a model"))
    assert file.read_bytes() == good


def test_a_stage_that_the_recipe_no_longer_has_leaves_no_folder(again):
    keep = "stages=[train_teacher: {epochs: 2, checkpoint_every: 0}]"
    again(keep, "student=null", "budget={}")
    assert sorted(path.name for path in (again.folder / "stages").iterdir()) == ["01-train_teacher"]
    assert not (again.folder / "student").exists()


def test_the_resolved_recipe_runs_to_the_same_result(forks, once, tmp_path):
    recipe = once / "run" / "recipe.yaml"
    ended = forks("run", recipe, "--out", "run", cwd=tmp_path, quick=True)
    assert ended.code == 0, ended.err
    for name in ("model.onnx", "model.safetensors"):
        assert (tmp_path / "run/student" / name).read_bytes() == (
            once / "run/student" / name
        ).read_bytes()


def test_a_verdict_is_on_standard_output_and_nothing_else_anywhere(forks, once, tiny, tmp_path):
    shutil.copytree(once, tmp_path / "copy")
    ended = forks("run", tiny, "--out", "run", cwd=tmp_path / "copy", quick=True)
    assert "Accuracy" in ended.out
    assert "report.html" in ended.out
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in ended.err.splitlines())
    quiet = forks("run", tiny, "--out", "run", "--quiet", cwd=tmp_path / "copy", quick=True)
    assert "Accuracy" in quiet.out
    assert quiet.err == ""


def test_an_ensemble_cached_outputs_and_a_second_distillation(forks, tiny, tmp_path):
    # Members of one epoch are at chance.
    teacher = "{source: limbeck, name: digits_cnn, width: 3, expect: {above_chance: false}}"
    first = "distill: {epochs: 1, cache_teacher: true}"
    second = "distill: {epochs: 1, objective: [task]}"
    settings = [
        f"teacher=[{teacher}, {teacher}]",
        f"stages=[train_teacher: {{epochs: 1}}, {first}, {second}, export: {{}}]",
    ]
    more = [part for setting in settings for part in ("--set", setting)]
    ended = forks("run", tiny, "--out", "run", *more, cwd=tmp_path, quick=True)
    assert ended.code == 0, ended.err
    result = json.loads((tmp_path / "run/run.json").read_text())
    assert result["chain"][0]["label"] == "ensemble of 2"
    assert list((tmp_path / "knowledge").rglob("*.json"))
    # The second distillation went on from what the first one made.
    stages = tmp_path / "run/stages"
    weights = [
        (stages / name / "model.safetensors").read_bytes() for name in ("02-distill", "03-distill")
    ]
    assert weights[0] != weights[1]
    changed = forks(
        "run", tiny, "--out", "other", *more, "--set", "student.width=3", cwd=tmp_path, quick=True
    )
    assert changed.code == 0, changed.err
    assert len(list((tmp_path / "knowledge").iterdir())) == 1


def test_a_teacher_is_loaded_and_loaded_anew_when_its_file_changes(forks, tiny, once, tmp_path):
    weights = tmp_path / "teacher.safetensors"
    shutil.copyfile(once / "run/stages/01-train_teacher/model.safetensors", weights)
    pixels = "teacher.normalization=data"
    settings = [
        f"teacher.checkpoint={weights}",
        pixels,
        "stages=[distill: {epochs: 1}, export: {}]",
    ]
    more = [part for setting in settings for part in ("--set", setting)]
    first = forks("run", tiny, "--out", "run", *more, cwd=tmp_path, quick=True)
    assert first.code == 0, first.err
    loaded = tmp_path / "run/stages/01-load/model.safetensors"
    were = loaded.read_bytes()
    assert json.loads((tmp_path / "run/stages/01-load/record.json").read_text())["stage"] == "load"
    passport = json.loads((tmp_path / "run/student/passport.json").read_text())
    assert str(weights) in json.dumps(passport)
    shutil.copyfile(once / "run/stages/01-train_teacher/model.safetensors", weights)
    from safetensors.torch import load_file, save_file

    save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights)
    second = forks("run", tiny, "--out", "run", *more, cwd=tmp_path, quick=True)
    assert second.code == 0, second.err
    assert loaded.read_bytes() != were


OWN = """
import json
from pathlib import Path

from torch import nn

HERE = Path(__file__).parent


def net(classes):
    from bark import slope

    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.LeakyReLU(slope()))
    return nn.Sequential(body, nn.Linear(6, classes))


def loss(student, teacher):
    scale = json.loads((HERE / "scale.json").read_text())
    return scale * (student - teacher).square().mean(-1)
"""


def test_what_the_users_code_imports_and_reads_is_part_of_a_stage(forks, tiny, tmp_path):
    """A helper imported in a function, and a file that a loss reads each time it is called."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "bark.py").write_text("def slope():\n    return 0.1\n")
    (tmp_path / "scale.json").write_text("0.5")
    settings = [
        "student={source: python, name: 'own.py:net'}",
        "stages.distill.objective=[task, 'python:own.py:loss']",
        "stages.distill.baseline=false",
    ]
    more = [part for setting in settings for part in ("--set", setting)]

    def redone():
        before = stamps(tmp_path / "run")
        ended = forks("run", tiny, "--out", "run", *more, cwd=tmp_path, quick=True)
        assert ended.code == 0, ended.err
        now = stamps(tmp_path / "run")
        return {name for name, stamp in now.items() if before.get(name) != stamp}

    everything = records(*STAGES) | {"examination.json"}
    assert redone() == everything
    assert redone() == set()
    for name, text in (("bark.py", "def slope():\n    return 0.9\n"), ("scale.json", "0.7")):
        stat = (tmp_path / name).stat()
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        # The teacher does not depend on either.
        assert redone() == everything - records("01-train_teacher")


def test_another_version_of_a_library_does_all_anew(again, tiny, forks):
    folder = again.folder.parent
    before = stamps(again.folder)
    ended = forks("run", tiny, "--out", "run", cwd=folder, quick=True, version={"torch": "0.0.1"})
    assert ended.code == 0, ended.err
    assert stamps(again.folder).keys() == before.keys()
    assert all(stamps(again.folder)[name] != before[name] for name in before)
