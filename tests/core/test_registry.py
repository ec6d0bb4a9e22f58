"""Registries of modules in a folder."""

import sys

import pytest

from limbeck.core.registry import Registry, camel_case
from limbeck.errors import InputError


@pytest.fixture
def stages(tmp_path, monkeypatch):
    package = tmp_path / "some_stages"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_shared.py").write_text("")
    (package / "base.py").write_text("")
    (package / "cut_down.py").write_text("class CutDown: pass\n")
    (package / "broken.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield Registry("some_stages", kind="stage", attribute=camel_case, skip=("base",))
    for name in [name for name in sys.modules if name.startswith("some_stages")]:
        del sys.modules[name]


def test_names_are_the_public_files_and_are_not_imported(stages):
    assert stages.names() == ["broken", "cut_down"]
    assert "some_stages.broken" not in sys.modules


def test_load_returns_the_class_of_the_file(stages):
    assert stages.load("cut_down").__name__ == "CutDown"


@pytest.mark.parametrize("name", ["cut_dwon", "base", "_shared", "", "cut_down.x", "os"])
def test_an_unknown_name_is_refused(stages, name):
    with pytest.raises(InputError, match=r"stages\.0: got"):
        stages.load(name, where="stages.0")


def test_the_nearest_name_is_suggested(stages):
    with pytest.raises(InputError, match='did you mean "cut_down"'):
        stages.load("cut_dwon")
