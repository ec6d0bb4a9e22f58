"""Groups of comparable runs, and the significance of their differences."""

import base64

import numpy as np
import pytest
from scipy import stats

from limbeck.evaluate.intervals import summarize
from limbeck.report.comparable_runs import comparable_runs, difference, of_files, stages
from limbeck.report.compare import render_comparison, render_comparison_page
from limbeck.report.result import RunResult

PRUNE = {"prune": {"method": "channels", "parameters": 0.5}}
FACTOR = {"factorize": {"method": "svd", "rank": 4}}
DISTIL = {"distill": {"epochs": 2}}
EXPORT = {"export": {}}


def run(
    like: RunResult, name: str, steps: list[dict], values: tuple[float, ...], size: int
) -> RunResult:
    """Return the run with other stages, accuracies and size."""
    link = like.chain[-1]
    cost = link.measured[0].cost.model_copy(update={"size_bytes": size})
    first = link.measured[0].model_copy(update={"cost": cost})
    shipped = link.model_copy(
        update={"score": summarize(values), "measured": (first, *link.measured[1:])}
    )
    return like.model_copy(
        update={
            "name": name,
            "recipe": {"stages": [{"train_teacher": {"epochs": 1}}, *steps, EXPORT]},
            "chain": (*like.chain[:-1], shipped),
        }
    )


@pytest.fixture
def runs(digits: RunResult) -> list[RunResult]:
    return [
        run(digits, "one", [DISTIL, PRUNE, FACTOR], (0.90, 0.91, 0.92), 1000),
        run(digits, "two", [PRUNE, DISTIL, FACTOR], (0.95, 0.96, 0.97), 1100),
        run(digits, "three", [DISTIL], (0.80, 0.99, 0.99), 1140),
        run(digits, "four", [DISTIL, PRUNE], (0.99, 0.99, 0.99), 4000),
    ]


def test_stages_are_written_with_their_methods(runs):
    assert stages(runs[0]) == "train_teacher → distill → prune (channels) → factorize (svd)"


def test_files_of_equal_size_are_grouped_best_first(runs):
    equal, order = comparable_runs(runs)
    assert equal.title.startswith("At equal size")
    assert [row[0] for row in equal.rows] == ["two", "three", "one"]
    assert [row[6] for row in equal.rows] == ["best", "no significant difference", "worse"]
    assert [row[0] for row in order.rows] == ["two", "one"]
    assert "another order" in order.title


def test_runs_on_other_data_are_not_grouped(runs):
    other = runs[1].data.model_copy(update={"fingerprint": "other"})
    assert comparable_runs([runs[0], runs[1].model_copy(update={"data": other})]) == []


def test_the_same_recipe_twice_is_no_group(runs):
    assert comparable_runs([runs[0], runs[0]]) == []


def test_a_difference_is_paired_by_seed(runs):
    left, right = np.array([0.80, 0.99, 0.99]), np.array([0.95, 0.96, 0.97])
    found = difference(runs[2], runs[1])
    expected = stats.ttest_rel(left, right).confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(expected))


def test_other_seeds_give_no_interval(runs):
    other = runs[0].model_copy(update={"seeds": (7, 8, 9)})
    assert difference(other, runs[1]).interval is None
    best, second = comparable_runs([other, runs[1]])[0].rows
    assert (best[6], second[6]) == ("best", "unknown: no interval")


def test_text_and_page_show_the_groups(runs):
    text, page = render_comparison(runs), render_comparison_page(runs)
    for written in (text, page):
        assert "At equal size" in written
        assert "another order" in written
        assert "no significant difference" in written


def test_two_files_are_compared_on_the_same_samples(runs):
    rng = np.random.default_rng(0)
    left, right = rng.random(359) < 0.95, rng.random(359) < 0.90

    def with_predictions(one: RunResult, correct: np.ndarray) -> RunResult:
        packed = base64.b64encode(np.packbits(correct).tobytes()).decode()
        link = one.chain[-1]
        first = link.measured[0]
        changed = first.model_copy(
            update={
                "right": packed,
                "scores": (first.score.model_copy(update={"samples": len(correct)}),),
            }
        )
        shipped = link.model_copy(update={"measured": (changed, *link.measured[1:])})
        return one.model_copy(update={"chain": (*one.chain[:-1], shipped)})

    found = of_files(with_predictions(runs[0], left), with_predictions(runs[1], right))
    expected = stats.bootstrap(
        (left.astype(float), right.astype(float)),
        lambda one, other, axis: (one - other).mean(axis=axis),
        paired=True,
        method="percentile",
        random_state=0,
    ).confidence_interval
    assert found.mean == pytest.approx(left.mean() - right.mean())
    assert found.interval.low == pytest.approx(expected.low, abs=0.006)
    assert found.interval.high == pytest.approx(expected.high, abs=0.006)


def test_other_samples_are_not_compared(runs):
    assert of_files(runs[0], runs[1]) is None
