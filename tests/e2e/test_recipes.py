"""Every shipped recipe runs in its smallest form."""

from pathlib import Path

import pytest

from limbeck.data.files import data_folder
from limbeck.passport import PASSPORT, verify
from limbeck.pipeline import runner
from limbeck.pipeline.load_recipe import read, resolve, shipped_recipes
from limbeck.pipeline.runner import run
from limbeck.report.load import load_run

REPOSITORY = Path(__file__).parents[2]


def is_there(name: str) -> bool:
    """Return whether a recipe's files are in the data folder."""
    files = read(shipped_recipes()[name])["data"].get("files", {})
    folder = REPOSITORY / data_folder()
    names = [
        one for given in files.values() for one in ([given] if isinstance(given, str) else given)
    ]
    return all(any(folder.glob(name)) for name in names)


def with_reason(name: str, *marks: pytest.MarkDecorator):
    missing = not is_there(name)
    reason = f"the data of {name} is not in LIMBECK_DATA ({data_folder()})"
    return pytest.param(name, marks=(pytest.mark.skipif(missing, reason=reason), *marks))


DIGITS = "vision/digits"
# Fewer rows than a smoke run has: what is held here is that every recipe's stages follow one
# another; the figures are the business of whole runs.
FEWEST = ["data.max_samples={train: 160, validation: 64, test: 64}"]
# A row of each of 100 classes.
FEW = {"vision/cifar100": ["data.max_samples={train: 200, validation: 100, test: 100}"]}
# Those that hold every kind of stage, task and data run; of the others every stage is tried.
SHORT = ("graph/cora", "series/ett", "tabular/adult", "vision/few_labels")
LONG = ("detection/bccd", "text/full_chain", "vision/camvid", "vision/full_chain")
RUN = [with_reason(name) for name in SHORT]
RUN += [with_reason(name, pytest.mark.long) for name in LONG]
TRIED = [with_reason(name) for name in sorted(shipped_recipes()) if name not in (DIGITS, *SHORT)]


def check(folder: Path) -> None:
    """Check the results of every run: figures, a page, and a student that predicts as reported."""
    result = load_run(folder)
    assert result.recipe["profile"] == "smoke"
    budget = result.recipe["budget"]
    lines = sum(line is not None for name, line in budget.items() if name not in ("score", "drop"))
    assert len(result.budget) == lines + len(budget["score"]) + len(budget["drop"])
    assert (folder / "report.html").is_file()
    assert result.details is None or not result.details.problem
    assert verify(folder / "student" / PASSPORT).issues == ()
    assert not list(folder.rglob("checkpoint"))


def test_digits_runs_in_its_smoke_profile(finished):
    check(finished)


@pytest.mark.parametrize("name", RUN)
def test_a_shipped_recipe_runs_in_its_smoke_profile(name, tmp_path, monkeypatch, quick_measuring):
    monkeypatch.chdir(REPOSITORY)
    folder = tmp_path / "runs" / "smoke"
    run(resolve(name, ["profile=smoke", *FEW.get(name, FEWEST)]), out=folder)
    check(folder)


class RehearsedError(Exception):
    """Check that the required facts are recorded."""


@pytest.mark.parametrize("name", TRIED)
def test_every_stage_of_a_shipped_recipe_can_do_its_work(name, tmp_path, monkeypatch):
    """The models are built, and every stage is tried on them, as before any run."""
    monkeypatch.chdir(REPOSITORY)
    whole = runner.dry_run

    def only(context):
        whole(context)
        raise RehearsedError

    monkeypatch.setattr(runner, "dry_run", only)
    with pytest.raises(RehearsedError):
        run(resolve(name, ["profile=smoke", *FEW.get(name, FEWEST)]), out=tmp_path / "run")
