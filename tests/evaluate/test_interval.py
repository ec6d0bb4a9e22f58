"""Intervals against their formulas, and their coverage of the true value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from limbeck.evaluate.intervals import summarize, wilson


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_its_formula(total, share, level):
    successes = round(share * total)
    found = wilson(successes, total, level=level)
    p, z = successes / total, stats.norm.ppf(0.5 + level / 2)
    centre = p + z**2 / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    assert found.low == pytest.approx((centre - half) / (1 + z**2 / total), abs=1e-9)
    assert found.high == pytest.approx((centre + half) / (1 + z**2 / total), abs=1e-9)
    assert found.low <= p <= found.high


@pytest.mark.parametrize("total", [20, 100])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_wilson_ends_solve_the_score_equation(total, share):
    successes = round(share * total)
    found = wilson(successes, total)
    for end in (found.low, found.high):
        if 0 < end < 1:
            score = (successes / total - end) / math.sqrt(end * (1 - end) / total)
            assert abs(score) == pytest.approx(1.959964, abs=1e-5)


@pytest.mark.parametrize("share", [0.6, 0.9, 0.97])
def test_wilson_has_its_nominal_coverage(share):
    total = 400
    probability = stats.binom.pmf(np.arange(total + 1), total, share)
    intervals = [wilson(k, total) for k in range(total + 1)]
    covered = np.array([interval.low <= share <= interval.high for interval in intervals])
    assert 0.93 < float(probability @ covered) < 0.97


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.sampled_from([0.9, 0.95]))
def test_the_interval_of_a_mean_is_scipys(values, level):
    found = summarize(values, level=level)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.values == tuple(values)
    error = stats.sem(values)
    if error > 1e-9:
        low, high = stats.t.interval(level, len(values) - 1, np.mean(values), error)
        assert found.interval.low == pytest.approx(low)
        assert found.interval.high == pytest.approx(high)
    else:
        assert found.interval.high - found.interval.low == pytest.approx(0, abs=1e-6)


def test_the_interval_of_a_mean_has_its_nominal_coverage():
    random = np.random.default_rng(0)
    draws = random.normal(3.0, 2.0, size=(2000, 3))
    intervals = [summarize(list(row)).interval for row in draws]
    share = np.mean([i.low <= 3.0 <= i.high for i in intervals])
    assert share == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_no_interval():
    assert summarize([0.9]).interval is None
