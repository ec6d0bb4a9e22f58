"""Code of a recipe outside the current folder is imported only with permission."""

import json

import pytest
from typer.testing import CliRunner

from limbeck.cli import _app
from limbeck.errors import InputError
from limbeck.pipeline.load_recipe import resolve
from limbeck.pipeline.trust import named_code, require_trust

RECIPE = """
name: foreign
task: image_classification
data: {{source: python, name: "{folder}/evil.py:data"}}
teacher: [{{source: python, name: "evil:net"}}, {{source: limbeck, name: digits_cnn}}]
student: {{source: python, name: "{folder}/evil.py:net"}}
stages:
  - train_teacher: {{epochs: 1}}
  - distill: {{epochs: 1, objective: [task, "python:{folder}/evil.py:loss"]}}
  - prune:
      sparsity: 0.5
      finetune: {{epochs: 1, objective: [{{"python:evil:other": {{weight: 1}}}}]}}
  - export: {{format: onnx}}
  - evaluate: {{evaluations: [fidelity]}}
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """Write a recipe outside the current folder, whose code creates a file when imported."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "evil.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\n"
        "def net(classes): ...\ndef loss(student, teacher): ...\ndef other(student, teacher): ...\n"
        "def data(): return {}\n"
    )
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("LIMBECK_TRUST_CODE", raising=False)
    return folder / "recipe.yaml"


def limbeck_(*argv: object):
    return CliRunner().invoke(_app(), [str(one) for one in argv])


def test_loading_a_recipe_imports_no_code(foreign, tmp_path):
    recipe = resolve(str(foreign))
    places = dict(named_code(recipe))
    assert set(places) == {
        "data.name",
        "teacher.0.name",
        "student.name",
        "stages.distill.objective.1",
        "stages.prune.finetune.objective.0",
    }
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("verb", ["run", "sweep", "layers", "evaluate"])
def test_a_command_that_imports_code_requires_permission(verb, foreign, tmp_path):
    more = ["--vary", "stages.0.train_teacher.epochs=1,2"] if verb == "sweep" else []
    ended = limbeck_(verb, foreign.parent if verb == "evaluate" else foreign, *more)
    assert ended.exit_code == 2, ended.output
    for words in ("student.name", "evil.py:net", "data.name", "--trust-code", "LIMBECK_TRUST_CODE"):
        assert words in ended.output
    assert not (tmp_path / "imported").exists()
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("permission", ["option", "variable"])
def test_code_is_imported_with_permission(permission, foreign, tmp_path, monkeypatch):
    if permission == "variable":
        monkeypatch.setenv("LIMBECK_TRUST_CODE", "1")
    ended = limbeck_("run", foreign, *(["--trust-code"] if permission == "option" else []))
    assert ended.exit_code == 2  # its data is nothing
    assert "--trust-code" not in ended.output
    assert (tmp_path / "imported").exists()


@pytest.mark.parametrize("verb", ["report", "compare", "verify", "lineage", "list"])
def test_commands_that_only_read_import_no_code(verb, foreign, tmp_path):
    folder = foreign.parent
    (folder / "run.json").write_text(json.dumps({"recipe": {"student": {"source": "python"}}}))
    arguments = {"compare": [folder, folder], "list": ["recipes"]}.get(verb, [folder])
    ended = limbeck_(verb, *arguments)
    assert "Traceback" not in ended.output
    assert not (tmp_path / "imported").exists()


def test_links_are_resolved_before_trust_is_decided(foreign, tmp_path):
    link = tmp_path / "here" / "mine.yaml"
    link.symlink_to(foreign)
    with pytest.raises(InputError, match="--trust-code"):
        require_trust(resolve(str(link)), link)
    (tmp_path / "here" / "own.yaml").write_text(foreign.read_text())
    require_trust(resolve("own.yaml"), tmp_path / "here" / "own.yaml")


def test_code_named_on_the_command_line_is_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setting = "student={source: python, name: 'mine.py:net'}"
    recipe = resolve("digits", [setting])
    from limbeck.pipeline.load_recipe import find

    require_trust(recipe, find("digits"), overrides=[setting])
    with pytest.raises(InputError, match=r"mine\.py:net"):
        require_trust(recipe, find("digits"))
