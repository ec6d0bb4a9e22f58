"""Cross-validation: a sweep over the folds of the data, in one table."""

import math

import numpy as np
import pytest
from scipy import stats

from limbeck.evaluate.intervals import summarize_folds
from limbeck.pipeline.load_recipe import resolve
from limbeck.pipeline.validate import validate
from limbeck.report.load import load_run
from limbeck.report.sweep import CrossValidation, render_sweep, sweep_lines
from limbeck.sweep.plan import plan
from limbeck.sweep.sampler import Sampler
from limbeck.sweep.space import space_of


def test_the_interval_over_folds_is_the_corrected_one():
    values = [0.91, 0.95, 0.93, 0.97]
    found = summarize_folds(values, folds=5)
    s, n = np.std(values, ddof=1), len(values)
    half = stats.t.ppf(0.975, n - 1) * s * math.sqrt(1 / n + 1 / 4)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.interval.low == pytest.approx(found.mean - half)
    assert found.interval.high == pytest.approx(found.mean + half)
    clipped = summarize_folds(values, folds=5, bounds=(0.92, 0.95)).interval
    assert (clipped.low, clipped.high) == (0.92, 0.95)
    assert summarize_folds([0.9], folds=5).interval is None


def test_the_page_and_the_text_show_every_choice_over_its_folds(result):
    one = CrossValidation(
        settings={"student.width": 4},
        folds=3,
        done=(0, 2),
        validation=summarize_folds([0.9, 0.92], folds=3),
        test=None,
    )
    both = result.model_copy(update={"cross_validation": (one,)})
    line = "3-fold cross-validation, 2 of 3 folds done, student.width 4: accuracy 91.00 % on the"
    assert any(line in text for text in sweep_lines(both, page="sweep.html"))
    assert line in render_sweep(both)
    assert "Cross-validation" not in render_sweep(result)
    tested = one.model_copy(update={"test": one.validation, "settings": {}, "done": (0, 1, 2)})
    text = sweep_lines(result.model_copy(update={"cross_validation": (tested,)}), page="p")
    assert text[0].startswith("3-fold cross-validation: accuracy 91.00 % on the test samples, 95 %")
    assert sum("cross-validation" in one for one in text) == 1


@pytest.mark.slow
def test_a_sweep_over_folds_has_one_score(quick, tiny, tmp_path):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed: no optuna")
    from limbeck.sweep.run import sweep

    content = resolve(str(tiny), ["data.split={folds: 2, fold: 0}"]).model_dump(mode="json")
    content["data"]["max_samples"]["test"] = 800
    content["teacher"] = None
    content["stages"] = [
        {"distill": {"epochs": 1, "batch_size": 32, "objective": "label_only"}},
        {"export": {}},
    ]
    recipe = validate(content)
    space = space_of(["data.split.fold=0,1"], None)
    planned = plan(recipe, space, costs=("size",), out=tmp_path / "s", sampler=Sampler.grid)
    result = sweep(planned)
    [found] = result.cross_validation
    runs = [load_run(planned.folder(trial.number)) for trial in result.done]
    assert [run.data.test for run in runs] == [800, 800]
    assert runs[0].data.fingerprint != runs[1].data.fingerprint
    assert found.test.values == tuple(run.shipped.score.mean for run in runs)
    assert found.validation.values == tuple(trial.figures.score for trial in result.done)
    assert "2-fold cross-validation: accuracy" in sweep_lines(result, page="p")[0]
