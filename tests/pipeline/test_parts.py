"""YAML parsing, the run folder, the machine."""

from itertools import pairwise

import pytest

from limbeck.errors import InputError
from limbeck.pipeline import machine
from limbeck.pipeline import run_folder as folders
from limbeck.pipeline.load_recipe import parse, read, resolve


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2.5E+3", -2500.0),
        ("2001-01-01", "2001-01-01"),
        ("{1: a, false: b}", {"1": "a", "False": "b"}),
        ("{<<: {a: 1, b: 1}, b: 2}", {"a": 1, "b": 2}),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
        ("!!set {a, b}", ["a", "b"]),
        ("", None),
    ],
)
def test_yaml_becomes_plain_data(text, value):
    found = parse(text, where="--set")
    assert (sorted(found) if text.startswith("!!set") else found) == value


@pytest.mark.parametrize(
    "text",
    [
        "{a: 1, a: 2}",
        "{1: a, true: b}",
        "&a [*a]",
        "[" * 5000,
        "{? [a] : 1}",
        "!!timestamp x",
        "!!bool x",
        "0x" + "f" * 5000,
        "9" * 5000,
        "!!python/object/apply:os.system [ls]",
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in pairwise("abcdefg")),
    ],
)
def test_yaml_that_is_not_plain_data_is_refused(text):
    with pytest.raises(InputError, match=r"--set(, line 1, column \d)?: got"):
        parse(text, where="--set")


def test_aliased_parts_are_copied():
    found = parse("{a: &x [1], b: *x}", where="--set")
    found["a"].append(2)
    assert found["b"] == [1]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"- a list", b"text", b""])
def test_a_file_that_is_not_a_recipe_is_refused(content, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"recipe\.yaml"):
        read(tmp_path / "recipe.yaml")


def test_a_folder_is_removed_unless_it_is_marked(tmp_path):
    run = tmp_path / "runs" / "digits"
    with pytest.raises(RuntimeError):
        refuse_within(run)
    assert not list(tmp_path.iterdir())
    with folders.lock(run):
        (run / folders.MARK).write_text("")
    assert (run / folders.MARK).exists()


def refuse_within(run):
    with folders.lock(run):
        (run / "data").mkdir()
        (run / "data" / "tokenizer.json").write_text("{}")
        raise RuntimeError


def test_an_existing_folder_is_kept(tmp_path):
    with pytest.raises(RuntimeError):
        refuse_within(tmp_path)
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_run_killed_early_are_accepted(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / ".x.partial").touch()
    folders.check(tmp_path)
    folders.cleanup(tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match=r"mine\.txt"):
        folders.check(tmp_path)


def test_a_second_lock_is_refused(tmp_path):
    with folders.lock(tmp_path), pytest.raises(folders.BusyError, match="--out"):
        refuse_within(tmp_path)


def test_the_number_of_threads_is_restored():
    import torch

    before = torch.get_num_threads()
    with machine.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_runs_of_different_precision_in_one_process(tmp_path):
    for precision, mixed in (("bfloat16", "bf16"), ("float32", "no")):
        recipe = resolve("digits", [f"stages.train_teacher.precision={precision}"])
        assert machine.accelerator_of(recipe, tmp_path).mixed_precision == mixed


@pytest.mark.parametrize("tracker", ["aim", "comet_ml"])
def test_a_tracker_that_is_not_installed_is_refused(tracker, tmp_path):
    with pytest.raises(InputError, match=f"pip install {tracker}"):
        machine.accelerator_of(resolve("digits", [f"trackers=[{tracker}]"]), tmp_path)
