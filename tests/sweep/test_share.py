"""The stages that two trials have in common are reused, and nothing else."""

import os
import threading

import pytest
import yaml

from limbeck.pipeline.load_recipe import resolve
from limbeck.sweep.share import share, teacher_lock
from limbeck.sweep.study import is_held, lock_of

STAGES = ("01-train_teacher", "02-distill", "03-quantize", "04-export")


@pytest.fixture
def recipe_with():
    return lambda *sets: resolve("digits", ["profile=smoke", *sets])


@pytest.fixture
def run_of(tmp_path):
    """Create the folder of a run with a number of finished stages."""

    def make(recipe, name, finished=4):
        folder = tmp_path / name
        for number, stage in enumerate(STAGES):
            place = folder / "stages" / stage
            place.mkdir(parents=True)
            (place / "started").write_text("key")
            (place / "model.onnx").write_text(f"{name} {stage}")
            if number < finished:
                (place / "record.json").write_text("{}")
        content = recipe.model_dump(mode="json")
        (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
        return folder

    return make


def stages_of(folder):
    return sorted(path.name for path in (folder / "stages").glob("*"))


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("student.width=9", 1),
        ("stages.train_teacher.epochs=7", 0),
        ("stages.distill.epochs=7", 1),
        ("stages.quantize.ranges=entropy", 2),
        ("teacher.width=9", 0),
        ("threads=2", 0),
        ("budget.size_kb=1", 4),
    ],
)
def test_stages_are_reused_as_far_as_the_recipes_agree(
    recipe_with, run_of, tmp_path, setting, expected
):
    other, target = run_of(recipe_with(), "other"), tmp_path / "mine"
    assert share(recipe_with(setting), target, [other]) == expected
    assert stages_of(target) == list(STAGES[:expected])
    if expected:
        mine = target / "stages/01-train_teacher/model.onnx"
        assert os.path.samefile(mine, other / "stages/01-train_teacher/model.onnx")
        assert not (target / "stages/01-train_teacher/started").exists()
        assert resolve(str(target / "recipe.yaml")) == recipe_with(setting)


def test_unfinished_stages_are_not_reused(recipe_with, run_of, tmp_path):
    other = run_of(recipe_with(), "other", finished=1)
    assert share(recipe_with(), tmp_path / "mine", [other]) == 1


def test_stages_are_reused_from_several_runs(recipe_with, run_of, tmp_path):
    first = run_of(recipe_with("student.width=9"), "first")
    second = run_of(recipe_with("stages.quantize.ranges=entropy"), "second")
    target = tmp_path / "mine"
    assert share(recipe_with(), target, [target, first, second, tmp_path / "none"]) == 2
    texts = [(target / "stages" / stage / "model.onnx").read_text() for stage in STAGES[:2]]
    assert texts == ["first 01-train_teacher", "second 02-distill"]
    # Existing stages are kept.
    assert share(recipe_with(), target, [second]) == 0


def test_only_common_seeds_are_reused(recipe_with, run_of, tmp_path):
    other = run_of(recipe_with("seeds=[5]"), "other")
    assert share(recipe_with("seeds=[6]"), tmp_path / "a", [other]) == 0
    assert share(recipe_with("seeds=[6, 5]"), tmp_path / "b", [other]) == 4
    assert stages_of(tmp_path / "b/seeds/5") == list(STAGES)


def test_a_teacher_is_trained_by_one_worker_while_the_others_wait(recipe_with, tmp_path):
    entered, done, order = threading.Event(), threading.Event(), []

    def first():
        with teacher_lock(recipe_with(), tmp_path):
            entered.set()
            done.wait(timeout=20)
            order.append("first")

    def second():
        entered.wait(timeout=20)
        with teacher_lock(recipe_with("student.width=9"), tmp_path):
            order.append("second")

    threads = [threading.Thread(target=one) for one in (first, second)]
    for thread in threads:
        thread.start()
    entered.wait(timeout=20)
    with teacher_lock(recipe_with("teacher.width=9"), tmp_path):  # another teacher does not wait
        order.append("other")
    done.set()
    for thread in threads:
        thread.join(timeout=20)
    assert order == ["other", "first", "second"]


def test_a_teacher_that_failed_is_not_marked_as_trained(recipe_with, tmp_path):
    with pytest.raises(ValueError, match="no"), teacher_lock(recipe_with(), tmp_path):
        raise ValueError("no")
    assert not list(tmp_path.glob("*.known"))
    with teacher_lock(recipe_with(), tmp_path):
        pass
    assert list(tmp_path.glob("*.known"))


def test_a_lock_is_released_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "place" / "lock"
    with lock_of(path):
        assert is_held(path)
    assert not is_held(path)
    assert not is_held(tmp_path / "none")
    assert not (tmp_path / "none").exists()
