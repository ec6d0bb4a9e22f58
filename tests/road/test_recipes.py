"""Every shipped recipe runs in its smallest form."""

import os
from pathlib import Path

import pytest

from limbeck.data.files import data_folder
from limbeck.pipeline.reading import read
from limbeck.pipeline.resolve import resolve, shipped_recipes
from limbeck.pipeline.runner import run

REPOSITORY = Path(__file__).parents[2]


def is_there(name: str) -> bool:
    """Tell whether a recipe's files lie in the data folder."""
    files = read(shipped_recipes()[name])["data"].get("files", {})
    folder = REPOSITORY / data_folder()
    return all((folder / path).exists() for path in files.values() if isinstance(path, str))


def with_reason(name: str):
    missing = not is_there(name)
    reason = f"the data of {name} is not in LIMBECK_DATA ({data_folder()})"
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=reason))


@pytest.mark.parametrize("name", [with_reason(name) for name in sorted(shipped_recipes())])
def test_a_shipped_recipe_runs_in_its_smoke_profile(name, tmp_path, monkeypatch, quick_measuring):
    monkeypatch.chdir(REPOSITORY)
    recipe = resolve(name, ["profile=smoke"])
    result = run(recipe, out=tmp_path / "runs" / "smoke")
    assert result.recipe["profile"] == "smoke"
    assert (tmp_path / "runs/smoke/student/passport.json").is_file()
    assert result.shipped.accuracy.mean > 0.2
    assert "LIMBECK_DATA" not in os.environ or data_folder().is_dir()
