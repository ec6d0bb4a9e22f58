"""The code that a recipe from elsewhere names is imported with permission, and never to be read."""

import json

import pytest
from typer.testing import CliRunner

from limbeck.cli import _app
from limbeck.errors import InputError
from limbeck.pipeline.load_recipe import resolve
from limbeck.pipeline.trust import named_code, require_trust

RECIPE = """
name: theirs
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
def theirs(tmp_path, monkeypatch):
    """A recipe of somebody else's, whose code leaves a mark where it is imported."""
    folder = tmp_path / "theirs"
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


def test_reading_a_recipe_imports_nothing(theirs, tmp_path):
    recipe = resolve(str(theirs))
    places = dict(named_code(recipe))
    assert set(places) == {
        "data.name",
        "teacher.0.name",
        "student.name",
        "stages.1.distill.objective.1",
        "stages.2.prune.finetune.objective.0",
    }
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("verb", ["run", "sweep", "layers", "evaluate"])
def test_a_verb_that_would_import_asks_for_permission(verb, theirs, tmp_path):
    more = ["--vary", "stages.0.train_teacher.epochs=1,2"] if verb == "sweep" else []
    ended = limbeck_(verb, theirs.parent if verb == "evaluate" else theirs, *more)
    assert ended.exit_code == 2, ended.output
    for words in ("student.name", "evil.py:net", "data.name", "--trust-code", "LIMBECK_TRUST_CODE"):
        assert words in ended.output
    assert not (tmp_path / "imported").exists()
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("way", ["option", "variable"])
def test_with_permission_it_is_imported(way, theirs, tmp_path, monkeypatch):
    if way == "variable":
        monkeypatch.setenv("LIMBECK_TRUST_CODE", "1")
    ended = limbeck_("run", theirs, *(["--trust-code"] if way == "option" else []))
    assert ended.exit_code == 2  # its data is nothing
    assert "--trust-code" not in ended.output
    assert (tmp_path / "imported").exists()


@pytest.mark.parametrize("verb", ["report", "compare", "verify", "lineage", "list"])
def test_verbs_that_only_read_import_nothing(verb, theirs, tmp_path):
    folder = theirs.parent
    (folder / "run.json").write_text(json.dumps({"recipe": {"student": {"source": "python"}}}))
    arguments = {"compare": [folder, folder], "list": ["recipes"]}.get(verb, [folder])
    ended = limbeck_(verb, *arguments)
    assert "Traceback" not in ended.output
    assert not (tmp_path / "imported").exists()


def test_a_link_under_the_current_folder_is_still_somebody_elses(theirs, tmp_path):
    link = tmp_path / "here" / "mine.yaml"
    link.symlink_to(theirs)
    with pytest.raises(InputError, match="--trust-code"):
        require_trust(resolve(str(link)), link)
    (tmp_path / "here" / "own.yaml").write_text(theirs.read_text())
    require_trust(resolve("own.yaml"), tmp_path / "here" / "own.yaml")


def test_what_the_command_line_names_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setting = "student={source: python, name: 'mine.py:net'}"
    recipe = resolve("digits", [setting])
    from limbeck.pipeline.load_recipe import find

    require_trust(recipe, find("digits"), overrides=[setting])
    with pytest.raises(InputError, match=r"mine\.py:net"):
        require_trust(recipe, find("digits"))
