"""What two trials have in common is taken over, and nothing else."""

import os
import threading

import pytest
import yaml

from limbeck.pipeline.load_recipe import resolve
from limbeck.sweep.share import share, teaching
from limbeck.sweep.study import held, is_held

STAGES = ("01-train_teacher", "02-distill", "03-quantize", "04-export")


@pytest.fixture
def recipe_with():
    return lambda *sets: resolve("digits", ["profile=smoke", *sets])


@pytest.fixture
def run_of(tmp_path):
    """Make the folder of a run of which so many stages are finished."""

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


def taken(folder):
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
def test_stages_are_taken_as_far_as_the_recipes_agree(
    recipe_with, run_of, tmp_path, setting, expected
):
    other, target = run_of(recipe_with(), "other"), tmp_path / "mine"
    assert share(recipe_with(setting), target, [other]) == expected
    assert taken(target) == list(STAGES[:expected])
    if expected:
        mine = target / "stages/01-train_teacher/model.onnx"
        assert os.path.samefile(mine, other / "stages/01-train_teacher/model.onnx")
        assert not (target / "stages/01-train_teacher/started").exists()
        assert resolve(str(target / "recipe.yaml")) == recipe_with(setting)


def test_what_is_not_finished_is_not_taken(recipe_with, run_of, tmp_path):
    other = run_of(recipe_with(), "other", finished=1)
    assert share(recipe_with(), tmp_path / "mine", [other]) == 1


def test_several_runs_give_what_they_have(recipe_with, run_of, tmp_path):
    first = run_of(recipe_with("student.width=9"), "first")
    second = run_of(recipe_with("stages.quantize.ranges=entropy"), "second")
    target = tmp_path / "mine"
    assert share(recipe_with(), target, [target, first, second, tmp_path / "none"]) == 2
    texts = [(target / "stages" / stage / "model.onnx").read_text() for stage in STAGES[:2]]
    assert texts == ["first 01-train_teacher", "second 02-distill"]
    # What is there already stays as it is.
    assert share(recipe_with(), target, [second]) == 0


def test_only_seeds_that_both_have_are_taken(recipe_with, run_of, tmp_path):
    other = run_of(recipe_with("seeds=[5]"), "other")
    assert share(recipe_with("seeds=[6]"), tmp_path / "a", [other]) == 0
    assert share(recipe_with("seeds=[6, 5]"), tmp_path / "b", [other]) == 4
    assert taken(tmp_path / "b/seeds/5") == list(STAGES)


def test_a_teacher_is_taught_by_one_worker_while_the_others_wait(recipe_with, tmp_path):
    entered, done, order = threading.Event(), threading.Event(), []

    def first():
        with teaching(recipe_with(), tmp_path):
            entered.set()
            done.wait(timeout=20)
            order.append("first")

    def second():
        entered.wait(timeout=20)
        with teaching(recipe_with("student.width=9"), tmp_path):
            order.append("second")

    threads = [threading.Thread(target=one) for one in (first, second)]
    for thread in threads:
        thread.start()
    entered.wait(timeout=20)
    with teaching(recipe_with("teacher.width=9"), tmp_path):  # another teacher waits for nobody
        order.append("other")
    done.set()
    for thread in threads:
        thread.join(timeout=20)
    assert order == ["other", "first", "second"]


def test_a_teacher_that_failed_is_not_taken_for_taught(recipe_with, tmp_path):
    with pytest.raises(ValueError, match="no"), teaching(recipe_with(), tmp_path):
        raise ValueError("no")
    assert not list(tmp_path.glob("*.known"))
    with teaching(recipe_with(), tmp_path):
        pass
    assert list(tmp_path.glob("*.known"))


def test_a_lock_is_let_go_of_when_the_block_ends(tmp_path):
    path = tmp_path / "place" / "lock"
    with held(path):
        assert is_held(path)
    assert not is_held(path)
    assert not is_held(tmp_path / "none")
