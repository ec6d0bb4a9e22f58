"""The figures in the pages are those of the stored results."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from limbeck.core.measurement import Metric
from limbeck.errors import InputError
from limbeck.evaluate.intervals import summarize

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build():
    path = ROOT / "docs" / "build_results.py"
    spec = importlib.util.spec_from_file_location("build_results", path)
    # Where pydantic looks up the names in annotations.
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def few_labels(build):
    return build.load()["vision-few_labels"]


def test_the_pages_show_the_stored_results(build):
    assert list(build.problems()) == []


def test_a_changed_figure_is_found(build):
    page, results = (ROOT / "README.md").read_text(encoding="utf-8"), build.load()
    row = build._row(results["vision-few_labels"])
    assert row in page
    for before, after in [
        (row, row.replace("1.51 MB", "1.52 MB")),
        ("6,274 parameters, teacher", "6,275 parameters, teacher"),
        ("fewer -->60<", "fewer -->61<"),
    ]:
        assert page.count(before) == 1
        changed = page.replace(before, after)
        assert changed != page
        assert build.updated(changed, results) == page


def test_the_readme_states_no_gain_of_its_own(build):
    page = build.FIGURE.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    for name in ("measured", "demo-output"):
        page = re.sub(f"<!-- {name} -->.*<!-- /{name} -->", "", page, flags=re.DOTALL)
    assert re.findall(r"[+−]\d+\.\d+ points", page) == []


def test_earlier_figures_of_a_stored_recipe_are_removed(build, few_labels):
    page = "## Earlier figures\n\n| `vision/few_labels` | 1 |\n| `vision/other` | 2 |\n"
    expected = "## Earlier figures\n\n| `vision/other` | 2 |\n"
    assert build.updated(page, {"vision-few_labels": few_labels}) == expected
    assert build.updated(page, {}) == page


def test_an_unknown_figure_is_an_error(build):
    with pytest.raises(KeyError, match="no-such"):
        build.updated("<!-- no-such.gain -->1<!-- / -->", {})


def test_figures_follow_from_the_values_per_seed(build, few_labels):
    for found in build.load().values():
        for one in (found.student.score, found.gain, found.teacher and found.teacher.score):
            if one is not None:
                assert one.mean == pytest.approx(np.mean(one.values))
                assert len(one.values) == len(found.seeds)
    assert few_labels.gains
    low = few_labels.gain.interval.model_copy(update={"low": -0.01})
    unclear = few_labels.gain.model_copy(update={"interval": low})
    assert not few_labels.model_copy(update={"gain": unclear}).gains


def test_a_changed_recipe_is_marked(build, few_labels):
    former = few_labels.model_copy(update={"recipe_hash": "0" * 16})
    assert list(build._notes(former)) == ["not re-measured since the recipe changed."]
    assert list(build._notes(few_labels)) == []


def test_seeds_and_texts_do_not_change_the_hash_but_settings_do(build):
    from limbeck.pipeline.load_recipe import resolve

    plain = build.recipe_hash(resolve("few_labels"))
    assert plain == build.recipe_hash(resolve("few_labels", ["seeds=[7]", "threads=2", "name=a"]))
    for override in ("stages.distill.epochs=5", "data.labelled=60", "profile=smoke"):
        assert plain != build.recipe_hash(resolve("few_labels", [override]))


def test_new_means_are_within_the_prediction_interval_as_often_as_stated(build):
    random = np.random.default_rng(0)
    draws = random.normal(size=(600, 8))
    inside = 0
    for row in draws:
        found = build.prediction_interval(summarize(row[:5]), 3)
        inside += found.low <= row[5:].mean() <= found.high
    assert inside / len(draws) == pytest.approx(0.95, abs=0.025)
    share = Metric(name="accuracy", title="Accuracy")
    assert build.prediction_interval(summarize([0.9, 0.99, 1.0]), 3, share).high == 1


def test_only_runs_of_shipped_recipes_are_stored(build):
    from types import SimpleNamespace

    for command in ("limbeck compare a b", "limbeck run"):
        with pytest.raises(InputError, match="the run's command"):
            build.extract(SimpleNamespace(environment=SimpleNamespace(command=command)))
