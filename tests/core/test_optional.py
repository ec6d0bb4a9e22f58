"""An optional library is imported, or the error names the extra to install."""

import json

import pytest

from limbeck.core.imports import available, require
from limbeck.errors import InputError


def test_an_installed_library_is_imported():
    assert require("json", extra="vision") is json
    assert available("json")


def test_a_missing_library_names_its_extra():
    with pytest.raises(InputError, match=r'pip install "limbeck\[vision\]"'):
        require("no_such_library.part", extra="vision")
    assert not available("no_such_library")


def test_a_missing_dependency_of_a_library_is_raised(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import something_of_its_own\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_of_its_own"):
        require("half_there", extra="vision")
