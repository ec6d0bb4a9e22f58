"""The reference of the recipe is current, and every key has a description."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "recipes.md"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location(
        "build_reference", PAGE.with_name("build_reference.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_current(build):
    page = PAGE.read_text(encoding="utf-8")
    assert build.updated(page) == page, "run: python docs/build_reference.py"


def test_every_stage_and_loss_has_its_place():
    from limbeck import losses
    from limbeck.pipeline.stages import STAGES

    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in STAGES.names() if f"\n#### {name}\n" not in page] == []
    assert [name for name in losses.__all__ if f"| `{name}` |" not in page] == []


def test_a_field_without_a_meaning_is_an_error(build):
    from pydantic import BaseModel

    class Undescribed(BaseModel):
        width: int = 8

    with pytest.raises(KeyError, match=r"Undescribed\.width: describe it there"):
        build.meaning(Undescribed, "width")


def test_the_exit_codes_are_those_of_the_errors():
    from limbeck.cli import INTERRUPTED
    from limbeck.errors import InputError, LimbeckError

    codes = re.findall(r"^\| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    expected = {0, LimbeckError.exit_code, InputError.exit_code, INTERRUPTED}
    assert {int(code) for code in codes} == expected


def test_the_variable_and_its_default_are_right(monkeypatch):
    from limbeck.data.files import VARIABLE, data_folder

    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"environment variable `{VARIABLE}`, by default the current folder" in text
    monkeypatch.delenv(VARIABLE, raising=False)
    assert data_folder().resolve() == Path.cwd()
