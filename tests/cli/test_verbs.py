"""Every command writes its result to standard output, and problems to standard error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import limbeck
from limbeck.cli import VERBS, _app
from limbeck.studies.study import shipped

ROOT = Path(limbeck.__file__).parent


def limbeck_(*argv: object):
    return CliRunner().invoke(_app(), [str(one) for one in argv])


def refused(ended, *words: str) -> None:
    assert ended.exit_code == 2, ended.output
    assert "Traceback" not in ended.output
    for word in words:
        assert word in ended.output


def modules(package: str, *, but: tuple[str, ...] = ()) -> list[str]:
    found = (path.stem for path in (ROOT / package).glob("*.py"))
    return sorted(name for name in found if not name.startswith("_") and name not in but)


def recipes() -> list[str]:
    folder = ROOT / "recipes"
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tasks", modules("tasks", but=("task", "checks", "scores", "details"))),
        ("stages", modules("pipeline/stages")),
        ("recipes", recipes()),
        ("studies", sorted(shipped())),
        ("losses", sorted(__import__("limbeck.losses", fromlist=["x"]).__all__)),
        ("methods", ["fitnets", "hinton", "label_only"]),
    ],
)
def test_list_shows_every_name_with_one_line(kind, expected):
    found = json.loads(limbeck_("list", kind, "--json").stdout)
    assert set(expected) <= set(found) if kind == "methods" else list(found) == expected
    assert all(one["description"] and one["origin"] == "built-in" for one in found.values())
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
def test_layers_refuses_wrong_input(argv, words):
    refused(limbeck_("layers", *argv), *words)


def test_init_writes_a_recipe_that_is_valid_and_named_after_its_file(tmp_path):
    from limbeck.pipeline.load_recipe import resolve

    path = tmp_path / "my recipe-2.yaml"
    ended = limbeck_("init", path)
    assert ended.exit_code == 0, ended.output
    assert resolve(str(path)).name == "myrecipe-2"
    schema = path.read_text().splitlines()[0].split("$schema=")[1]
    assert json.loads(Path(schema).read_text())["title"] == "A limbeck recipe"
    refused(limbeck_("init", path), "does not exist yet")


def test_init_accepts_any_shipped_recipe(tmp_path):
    for number, name in enumerate(recipes()):
        assert limbeck_("init", tmp_path / f"{number}.yaml", "--from", name).exit_code == 0
    refused(limbeck_("init", tmp_path / "x.yaml", "--from", "digit"), '"digits"')
    refused(limbeck_("init", tmp_path / "x.txt"), ".yaml")
    assert not (tmp_path / "x.yaml").exists()


def test_doctor_checks_the_export():
    ended = limbeck_("doctor")
    assert ended.exit_code == 0, ended.output
    assert "torch to ONNX Runtime: outputs differ by" in ended.stdout


@pytest.mark.parametrize("verb", ["report", "compare"])
def test_a_folder_without_a_run_is_refused(verb, tmp_path):
    folders = [tmp_path, tmp_path][: 2 if verb == "compare" else 1]
    refused(limbeck_(verb, *folders), "run.json", "--resume")


def test_compare_requires_two_runs(tmp_path):
    refused(limbeck_("compare", tmp_path), "two run folders")


def test_verify_refuses_a_folder_without_a_passport(tmp_path):
    refused(limbeck_("verify", tmp_path), "passport")


def test_every_command_has_help():
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
def test_evaluate_refuses_unknown_evaluations_and_settings(argv, words, tmp_path):
    refused(limbeck_("evaluate", tmp_path, *argv), *words)


def imported(heavy: set[str], argv: list[str]) -> tuple[str, int]:
    """Run a command in a new process; return which heavy modules it imported, and its exit code."""
    code = (
        "import sys; from typer.testing import CliRunner; from limbeck.cli import _app;"
        f"ended = CliRunner().invoke(_app(), {argv!r});"
        f"print(sorted({heavy!r} & sys.modules.keys())); sys.exit(ended.exit_code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    return ended.stdout.strip(), ended.returncode


@pytest.mark.parametrize("kind", ["losses", "methods", "tasks", "stages", "recipes", "models"])
def test_lists_import_neither_torch_nor_scipy(kind):
    assert imported({"torch", "scipy", "transformers", "sklearn"}, ["list", kind]) == ("[]", 0)


@pytest.mark.parametrize("verb", ["compare", "report", "verify", "init", "lineage"])
def test_commands_that_read_import_no_torch(verb, tmp_path):
    argv = [verb, str(tmp_path / "x.yaml"), *[str(tmp_path)][: verb == "compare"]]
    assert imported({"torch", "transformers", "sklearn"}, argv)[0] == "[]"


def test_parsed_docstrings_equal_imported_ones():
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
    assert "278,324 parameters" in found["limbeck:resnet20"]["description"]
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


def test_short_help_and_completion():
    assert "Usage" in limbeck_("-h").stdout
    assert "Usage" in limbeck_("verify", "-h").stdout
    assert "--show-completion" in limbeck_("-h").stdout


def test_a_misspelt_command_is_reported_with_a_suggestion():
    ended = limbeck_("comapre", "a", "b")
    assert ended.exit_code == 2
    assert "compare" in ended.output
