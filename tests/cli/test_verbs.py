"""Every verb says what it found on standard output, and what is wrong on standard error."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import limbeck
from limbeck.cli import VERBS, _app

ROOT = Path(limbeck.__file__).parent


def limbeck_(*argv: object):
    return CliRunner().invoke(_app(), [str(one) for one in argv])


def refused(ended, *words: str) -> None:
    assert ended.exit_code == 2, ended.output
    assert "Traceback" not in ended.output
    for word in words:
        assert word in ended.output


def files(room: str, *, but: tuple[str, ...] = ()) -> list[str]:
    found = (path.stem for path in (ROOT / room).glob("*.py"))
    return sorted(name for name in found if not name.startswith("_") and name not in but)


def recipes() -> list[str]:
    folder = ROOT / "recipes"
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tasks", files("tasks", but=("task",))),
        ("stages", files("pipeline/stages")),
        ("recipes", recipes()),
        ("studies", files("studies")),
        ("losses", sorted(__import__("limbeck.losses", fromlist=["x"]).__all__)),
        ("methods", ["fitnets", "hinton", "label_only"]),
    ],
)
def test_list_gives_what_there_is_with_a_line_each(kind, expected):
    found = json.loads(limbeck_("list", kind, "--json").stdout)
    assert set(expected) <= set(found) if kind == "methods" else list(found) == expected
    assert all(found.values())
    plain = limbeck_("list", kind).stdout
    assert all(name in plain for name in expected)
    assert plain.strip()


def test_list_of_another_kind_is_refused():
    refused(limbeck_("list", "loses"), "losses")


@pytest.mark.parametrize(
    ("model", "more", "line"),
    [
        ("limbeck:resnet20", ("--classes", "100"), "n x 16 x 32 x 32"),
        ("limbeck:digits_cnn", ("--shape", "1,8,8"), "n x 10"),
        ("digits", ("--of", "teacher"), "n x 10"),
        ("vision/digits", (), "n x 10"),
    ],
)
def test_layers_shows_paths_and_shapes(model, more, line):
    ended = limbeck_("layers", model, *more)
    assert ended.exit_code == 0, ended.output
    assert line in ended.stdout


def test_layers_of_a_library_of_models():
    pytest.importorskip("timm")
    ended = limbeck_("layers", "timm:mobilenetv3_small_050", "--shape", "3,64,64")
    assert "conv_stem" in ended.stdout


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("limbek:resnet20",), ("MODEL.source", '"limbeck"')),
        (("limbeck:resnet21",), ("resnet20",)),
        (("limbeck:resnet20", "--shape", "3,32"), ("--shape", "3,32,32")),
        (("limbeck:resnet20", "--shape", "0,1,1"), ("--shape",)),
        (("digit",), ("did you mean",)),
    ],
)
def test_layers_says_what_is_wrong(argv, words):
    refused(limbeck_("layers", *argv), *words)


def test_new_writes_a_recipe_that_is_valid_and_named_after_its_file(tmp_path):
    from limbeck.pipeline.resolve import resolve

    path = tmp_path / "my recipe-2.yaml"
    ended = limbeck_("new", path)
    assert ended.exit_code == 0, ended.output
    assert resolve(str(path)).name == "myrecipe-2"
    schema = path.read_text().splitlines()[0].split("$schema=")[1]
    assert json.loads(Path(schema).read_text())["title"] == "A limbeck recipe"
    refused(limbeck_("new", path), "does not exist yet")


def test_new_begins_with_any_shipped_recipe(tmp_path):
    for number, name in enumerate(recipes()):
        assert limbeck_("new", tmp_path / f"{number}.yaml", "--from", name).exit_code == 0
    refused(limbeck_("new", tmp_path / "x.yaml", "--from", "digit"), '"digits"')
    refused(limbeck_("new", tmp_path / "x.txt"), ".yaml")
    assert not (tmp_path / "x.yaml").exists()


def test_doctor_walks_the_road():
    ended = limbeck_("doctor")
    assert ended.exit_code == 0, ended.output
    assert "torch to ONNX Runtime: answers differ by" in ended.stdout


@pytest.mark.parametrize("verb", ["report", "compare"])
def test_a_folder_without_a_run_is_refused(verb, tmp_path):
    folders = [tmp_path, tmp_path][: 2 if verb == "compare" else 1]
    refused(limbeck_(verb, *folders), "run.json", "--resume")


def test_compare_wants_two(tmp_path):
    refused(limbeck_("compare", tmp_path), "two run folders")


def test_verify_says_that_there_is_no_passport(tmp_path):
    refused(limbeck_("verify", tmp_path), "passport")


def test_every_verb_has_help():
    for verb in VERBS:
        ended = limbeck_(verb.__name__.rstrip("_"), "--help")
        assert ended.exit_code == 0
        assert (verb.__doc__ or "").split(".")[0].split(",")[0] in ended.stdout


def test_version_is_shown():
    assert limbeck_("--version").stdout.startswith("limbeck ")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--questions", "fairnes"], ["fairness"]),
        (["--questions", "cost", "--set", "cost.sevonds=1"], ["seconds", "sevonds"]),
        (["--questions", "cost", "--set", "cost.seconds=soon"], ["cost.seconds", "soon"]),
        (["--questions", "cost", "--set", "cost.previous=none.onnx"], ["cost.previous"]),
        (["--questions", "cost", "--set", "cost=5"], ["cost"]),
        (["--questions", "cost", "--set", "fairness.margin=1,2"], ["fairness"]),
        (["--set", "nonsense"], ["path=value"]),
    ],
)
def test_evaluate_refuses_what_no_question_takes(argv, words, tmp_path):
    refused(limbeck_("evaluate", tmp_path, *argv), *words)
