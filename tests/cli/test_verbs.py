"""Every verb says what it found on standard output, and what is wrong on standard error."""

import json
import subprocess
import sys
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
        ("tasks", files("tasks", but=("task", "checks"))),
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
    from limbeck.pipeline.load_recipe import resolve

    path = tmp_path / "my recipe-2.yaml"
    ended = limbeck_("init", path)
    assert ended.exit_code == 0, ended.output
    assert resolve(str(path)).name == "myrecipe-2"
    schema = path.read_text().splitlines()[0].split("$schema=")[1]
    assert json.loads(Path(schema).read_text())["title"] == "A limbeck recipe"
    refused(limbeck_("init", path), "does not exist yet")


def test_new_begins_with_any_shipped_recipe(tmp_path):
    for number, name in enumerate(recipes()):
        assert limbeck_("init", tmp_path / f"{number}.yaml", "--from", name).exit_code == 0
    refused(limbeck_("init", tmp_path / "x.yaml", "--from", "digit"), '"digits"')
    refused(limbeck_("init", tmp_path / "x.txt"), ".yaml")
    assert not (tmp_path / "x.yaml").exists()


def test_doctor_checks_the_export():
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
        (["--evaluations", "fairnes"], ["fairness"]),
        (["--evaluations", "cost", "--set", "cost.sevonds=1"], ["seconds", "sevonds"]),
        (["--evaluations", "cost", "--set", "cost.seconds=soon"], ["cost.seconds", "soon"]),
        (["--evaluations", "cost", "--set", "cost.previous=none.onnx"], ["cost.previous"]),
        (["--evaluations", "cost", "--set", "cost=5"], ["cost"]),
        (["--evaluations", "cost", "--set", "fairness.margin=1,2"], ["fairness"]),
        (["--set", "nonsense"], ["path=value"]),
    ],
)
def test_evaluate_refuses_what_no_question_takes(argv, words, tmp_path):
    refused(limbeck_("evaluate", tmp_path, *argv), *words)


@pytest.mark.parametrize("kind", ["losses", "methods", "tasks", "stages", "recipes", "models"])
def test_lists_import_neither_torch_nor_scipy(kind):
    code = (
        "import sys; from typer.testing import CliRunner; from limbeck.cli import _app;"
        f"ended = CliRunner().invoke(_app(), ['list', {kind!r}]); assert ended.exit_code == 0;"
        "print(sorted({'torch', 'scipy', 'transformers', 'sklearn'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", ["compare", "report", "verify", "init", "lineage"])
def test_verbs_that_read_import_no_torch(verb, tmp_path):
    words = [verb, str(tmp_path / "x.yaml"), *[str(tmp_path)][: verb == "compare"]]
    code = (
        "import sys; from typer.testing import CliRunner; from limbeck.cli import _app;"
        f"CliRunner().invoke(_app(), {words!r});"
        "print(sorted({'torch', 'transformers', 'sklearn'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_what_is_read_from_source_is_what_an_import_gives():
    import inspect

    from limbeck import losses
    from limbeck.cli._docstrings import of_package, public_names
    from limbeck.objective import methods

    for module in (losses, methods):
        read = of_package(module.__name__)
        assert public_names(module.__name__) == tuple(sorted(module.__all__)) == tuple(read)
        for name, one in read.items():
            found = module.find(name)
            assert one.docstring == inspect.getdoc(found)
            required = [
                parameter.name
                for parameter in inspect.signature(found).parameters.values()
                if parameter.default is parameter.empty
            ]
            assert list(one.required) == required


def test_models_are_listed_and_those_of_a_library_on_demand():
    found = json.loads(limbeck_("list", "models", "--json").stdout)
    assert "64,674" in found["limbeck:resnet20"] or "parameters" in found["limbeck:resnet20"]
    assert "python:..." in found
    pytest.importorskip("torchvision")
    assert "torchvision:resnet18" in limbeck_("list", "models", "--source", "torchvision").stdout
    refused(limbeck_("list", "models", "--source", "tim"), '"timm"')
    refused(limbeck_("list", "losses", "--source", "timm"), "--source")


def test_layers_stop_at_a_depth_and_are_printed_as_json():
    found = json.loads(limbeck_("layers", "limbeck:resnet20", "--depth", "1", "--json").stdout)
    assert found
    assert not any("." in one["path"] for one in found)


def test_doctor_as_json():
    found = json.loads(limbeck_("doctor", "--json").stdout)
    assert {"name", "well", "found", "fix"} <= found[0].keys()


def test_short_help_and_completion_are_there():
    assert "Usage" in limbeck_("-h").stdout
    assert "Usage" in limbeck_("verify", "-h").stdout
    assert "--show-completion" in limbeck_("-h").stdout


def test_a_misspelt_verb_is_named_with_its_neighbour():
    ended = limbeck_("comapre", "a", "b")
    assert ended.exit_code == 2
    assert "compare" in ended.output
