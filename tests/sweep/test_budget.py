"""Selection of the most accurate trial within the budget, or else of the nearest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.pipeline.recipe import Budget
from limbeck.report.result import BudgetCheck
from limbeck.sweep.budget import LINES, Limits, checks, choose, limits_of, miss
from limbeck.tasks.scores import ACCURACY


def test_every_line_of_a_recipes_budget_is_available():
    lines = {*LINES, "score", "drop"}
    assert set(Budget.model_fields) <= lines == set(Limits.model_fields)


def test_figures_are_compared_in_the_units_of_the_lines(figures):
    found = figures(0.95, 38_000, 0.4, memory=2_000_000, energy=0.002, flops=900, parameters=70)
    limits = limits_of(
        "size_kb=38,latency_ms=0.3,score.accuracy=0.95,drop.accuracy=0.02,parameters=69,flops=1e3,"
        "memory_mb=2,energy_mj=1"
    )
    lines = {check.name: (round(check.measured, 9), check.met) for check in checks(found, limits)}
    assert lines == {
        "size_kb": (38, True),
        "latency_ms": (0.4, False),
        "score": (0.95, True),
        "drop": (0.03, False),
        "parameters": (70, False),
        "flops": (900, True),
        "memory_mb": (2, True),
        "energy_mj": (2, False),
    }


def test_a_limit_on_an_unmeasured_figure_is_refused(figures):
    with pytest.raises(InputError, match=r"energy_mj.*not measured"):
        checks(figures(0.9, 1, 1), limits_of("energy_mj=1"))


def test_the_most_accurate_that_fits_is_chosen(trial):
    trials = [
        trial(0, 0.99, size=50_000),
        trial(1, 0.95, size=30_000),
        trial(2, 0.97, size=29_000, latency=9),
        trial(3, 0.94, size=1_000),
    ]
    found, lines = choose(trials, limits_of("size_kb=30,latency_ms=1"))
    assert found.number == 1
    assert all(line.met for line in lines)


def test_ties_are_broken_by_size_then_latency_then_number(trial):
    budget = limits_of("size_kb=30")
    assert choose([trial(0, size=9), trial(1, size=8)], budget)[0].number == 1
    assert choose([trial(0, latency=2), trial(1, latency=1)], budget)[0].number == 1
    assert choose([trial(1), trial(0)], budget)[0].number == 0


def test_if_nothing_fits_the_nearest_is_chosen(trial):
    trials = [trial(0, 0.99, size=44_000), trial(1, 0.70, size=41_000), trial(2, 0.5, size=80_000)]
    found, lines = choose(trials, limits_of("size_kb=40"))
    assert (found.number, lines[0].met) == (1, False)
    found, lines = choose(trials, limits_of("size_kb=40,score.accuracy=0.95"))
    assert found.number == 0
    assert [line.met for line in lines] == [False, True]


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(1, 99_999), st.floats(0.01, 9)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 99),
    st.floats(0.01, 9),
)
def test_the_choice_is_the_best_by_brute_force(trial, rows, kilobytes, milliseconds):
    trials = [trial(n, a, s, latency) for n, (a, s, latency) in enumerate(rows)]
    limits = Limits(size_kb=kilobytes, latency_ms=milliseconds)
    found, lines = choose(trials, limits)
    fits = [
        t
        for t in trials
        if t.figures.size / 1000 <= kilobytes and t.figures.latency <= milliseconds
    ]
    assert all(line.met for line in lines) == bool(fits)
    if fits:
        assert found in fits
        assert found.figures.score == max(t.figures.score for t in fits)
    else:
        least = min(sum(map(miss, checks(t.figures, limits))) for t in trials)
        assert sum(map(miss, lines)) == least


def test_one_per_cent_too_large_counts_as_one_point_too_inaccurate():
    size = BudgetCheck(name="size_kb", allowed=100, measured=101, unit="kB", met=False)
    drop = BudgetCheck(
        name="drop", allowed=0.0, measured=0.01, unit="", met=False, metric=ACCURACY.metric
    )
    assert miss(size) == pytest.approx(miss(drop))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("size_kbb=30", ('did you mean "size_kb"',)),
        ("size_kb=-3", ("--budget.size_kb", "greater than 0")),
        ("size_kb", ("name=value",)),
        ("size_kb=", ("name=value",)),
        ("size_kb=1,size_kb=2", ("once for each line",)),
        ("size_kb=small,acuracy=2", ("size_kb", "acuracy")),
        ("", ("name=value",)),
    ],
)
def test_an_invalid_budget_is_refused(text, words):
    with pytest.raises(InputError) as refused:
        limits_of(text)
    for word in words:
        assert word in str(refused.value)
