"""Nominal coverage of 95 %: intervals of many samples of a population of known true values.

The samples are drawn by a fixed seed. A coverage of 93 to 97 % is required.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from limbeck.evaluate import bootstrap
from limbeck.evaluate.bootstrap import Resamples, mean, paired_difference, share
from limbeck.evaluate.calibration.correction import corrected_errors
from limbeck.evaluate.calibration.metrics import gaps, top
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.metrics import (
    Ranking,
    aurc,
    auroc,
    brier,
    divergences,
    log_probabilities,
    losses,
)

SAMPLES = 200
NOMINAL = (0.93, 0.97)


@cache
def population(scale: float, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A student with more noise than its teacher; `scale` above 1 makes both overconfident."""
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(50_000, 5))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    student, teacher = (
        log_probabilities(scale * logits + times * noise * random.normal(size=logits.shape))
        for times in (2, 1)
    )
    return student, teacher, labels


def drawn(times: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(1)
    for _ in range(times):
        yield random.integers(50_000, size=SAMPLES)


def coverage(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([e.interval.low <= truth <= e.interval.high for e in estimates]))


def within(share: float) -> bool:
    return NOMINAL[0] <= share <= NOMINAL[1]


def test_intervals_of_means_have_nominal_coverage():
    student, teacher, labels = population(1.8, 0.5)
    right = [(log_p.argmax(axis=1) == labels).astype(float) for log_p in (student, teacher)]
    figures = {
        "accuracy difference": right[0] - right[1],
        "likelihood difference": losses(student, labels) - losses(teacher, labels),
        "divergence": divergences(teacher, student),
        "brier": brier(student, labels),
    }
    resamples = Resamples(SAMPLES, n_resamples=1000, seed=2)
    rows = np.stack(list(drawn(1000)), axis=1)
    found = {
        name: coverage(resamples.means(values[rows]), values.mean())
        for name, values in figures.items()
    }
    assert all(map(within, found.values())), found


def test_the_interval_of_paired_shares_has_nominal_coverage():
    student, teacher, labels = population(1.8, 0.5)
    right = [(log_p.argmax(axis=1) == labels).astype(float) for log_p in (student, teacher)]
    found = [paired_difference(right[0][rows], right[1][rows]) for rows in drawn(1500)]
    assert within(coverage(found, right[0].mean() - right[1].mean()))


def test_the_interval_of_paired_fractions_has_nominal_coverage():
    student, teacher, labels = population(1.8, 0.5)
    random = np.random.default_rng(3)
    # Correct under some of five corruptions, with the probability of the true class.
    parts = [
        random.binomial(5, np.exp(log_p[np.arange(len(labels)), labels])) / 5
        for log_p in (student, teacher)
    ]
    found = [paired_difference(parts[0][rows], parts[1][rows]) for rows in drawn(1500)]
    assert within(coverage(found, parts[0].mean() - parts[1].mean()))


def test_intervals_of_rankings_have_nominal_coverage():
    student, _, labels = population(1.8, 0.5)
    confidence, right = top(student, labels)
    once = np.ones((1, len(labels)))
    ranking = Ranking.of(confidence)
    resamples = Resamples(SAMPLES, n_resamples=400, seed=2)
    aurocs, aurcs = [], []
    for rows in drawn(400):
        order, hits = Ranking.of(confidence[rows]), right[rows]
        aurocs.append(resamples.estimate(lambda c, o=order, h=hits: auroc(o, c, h)))
        aurcs.append(resamples.estimate(lambda c, o=order, h=hits: aurc(o, c, 1 - h)))
    assert within(coverage(aurocs, auroc(ranking, once, right)[0]))
    assert within(coverage(aurcs, aurc(ranking, once, 1 - right)[0]))


@pytest.mark.parametrize(("scale", "noise"), [(1.0, 0.0), (1.8, 0.5)])
def test_the_interval_of_the_calibration_error_covers_the_populations(scale, noise):
    student, _, labels = population(scale, noise)
    gap = gaps(student, labels)
    truth = float(np.abs(gap.mean(axis=0)).sum())
    resamples = Resamples(SAMPLES, n_resamples=400, seed=2)
    found = [corrected_errors(resamples, gap[rows]).student for rows in drawn(300)]
    assert within(coverage(found, truth)), coverage(found, truth)


def test_the_uncorrected_interval_of_a_calibrated_models_error_does_not_cover_it():
    student, _, labels = population(1.0, 0.0)
    gap = gaps(student, labels)
    truth = float(np.abs(gap.mean(axis=0)).sum())
    resamples = Resamples(SAMPLES, n_resamples=400, seed=2)
    plain = [
        resamples.estimate(lambda c, g=gap[rows]: np.abs(mean(c, g)).sum(axis=1))
        for rows in drawn(50)
    ]
    assert coverage(plain, truth) < 0.1


def test_the_interval_of_a_difference_of_calibration_errors_covers_the_populations():
    student, teacher, labels = population(1.8, 0.5)
    both = [gaps(log_p, labels) for log_p in (student, teacher)]
    truth = np.subtract(*(np.abs(gap.mean(axis=0)).sum() for gap in both))
    resamples = Resamples(SAMPLES, n_resamples=400, seed=2)
    found = [corrected_errors(resamples, *(gap[rows] for gap in both)) for rows in drawn(150)]
    # They are conservative: 96 to 97 % of 1500.
    assert coverage([pair.difference for pair in found], truth) >= NOMINAL[0]


def test_a_model_does_not_differ_from_itself():
    student, _, labels = population(1.8, 0.5)
    gap = gaps(student[:200], labels[:200])
    pair = corrected_errors(Resamples(200), gap, gap)
    assert pair.student == pair.teacher
    assert pair.difference.value == 0.0
    assert -0.01 < pair.difference.interval.low <= 0.0 <= pair.difference.interval.high < 0.01


def test_the_draws_do_not_depend_on_the_block_size(monkeypatch):
    values = np.random.default_rng(0).normal(size=(50, 3))
    whole = Resamples(50, n_resamples=20, seed=4).means(values)
    monkeypatch.setattr(bootstrap, "BLOCK", 170)
    again = Resamples(50, n_resamples=20, seed=4).means(values)

    def numbers(estimates):
        return [(one.value, one.interval.low, one.interval.high) for one in estimates]

    # A product of matrices rounds by its shape.
    np.testing.assert_allclose(numbers(again), numbers(whole), rtol=1e-12)


def test_both_models_are_evaluated_on_the_same_draws():
    values = np.random.default_rng(0).normal(size=40)
    resamples = Resamples(40)
    found = resamples.paired(lambda c: mean(c, values), lambda c: mean(c, values - 1))
    assert found.difference.value == pytest.approx(1.0)
    assert found.difference.interval.low == pytest.approx(1.0)
    assert found.difference.interval.high == pytest.approx(1.0)
    assert resamples.paired(lambda c: mean(c, values), None).difference is None


def test_each_part_is_resampled_separately():
    for counts in Resamples(30, n_resamples=50, parts=(10, 20)).counts():
        assert (counts[:, :10].sum(axis=1) == 10).all()
        assert (counts[:, 10:].sum(axis=1) == 20).all()


def test_the_ends_are_scipys_within_the_widening():
    values = np.random.default_rng(0).exponential(size=100)
    found = Resamples(100, n_resamples=4000).means(values[:, None])[0].interval
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", random_state=1
    ).confidence_interval
    scale = values.std() / 10
    assert found.low == pytest.approx(expected.low, abs=0.15 * scale)
    assert found.high == pytest.approx(expected.high, abs=0.15 * scale)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_the_mean_is_numpys_of_the_samples_drawn(seed, count):
    random = np.random.default_rng(seed)
    values = random.choice([0.0, 1.0, -2.5, np.inf], size=(count, 2), p=[0.4, 0.3, 0.25, 0.05])
    rows = random.integers(count, size=(3, count))
    counts = np.stack([np.bincount(row, minlength=count) for row in rows]).astype(float)
    expected = np.stack([values[row].mean(axis=0) for row in rows])
    assert mean(counts, values) == pytest.approx(expected)


def test_infinite_and_missing_values_do_not_spread():
    values = np.array([1.0] * 30 + [np.inf])
    found = Resamples(31).means(values[:, None])[0]
    assert found.value == np.inf
    assert found.interval.low == 1.0
    assert found.interval.high == np.inf
    same = Resamples(31).paired(lambda c: mean(c, values), lambda c: mean(c, values))
    assert (same.difference.value, same.difference.interval.high) == (0.0, 0.0)
    nothing = Resamples(5).estimate(lambda c: np.full(len(c), np.nan))
    assert np.isnan(nothing.value)
    assert nothing.interval is None


def test_one_sample_is_no_error():
    found = Resamples(1).means(np.array([[3.0]]))[0]
    assert (found.value, found.interval.low, found.interval.high) == (3.0, 3.0, 3.0)
    assert corrected_errors(Resamples(1), np.array([[0.0, 0.25]])).student.value == pytest.approx(
        0.25, abs=1e-6
    )


@pytest.mark.parametrize("count", [1, 5])
def test_shares_of_few_samples_have_wide_intervals(count):
    ones, zeros = np.ones(count), np.zeros(count)
    assert share(ones).interval.low < 0.6
    assert share(ones).interval.high == 1.0
    same = paired_difference(ones, ones)
    assert same.value == 0.0
    assert same.interval.low < -0.3
    assert same.interval.high > 0.3
    other = paired_difference(ones, zeros)
    assert other.value == 1.0
    assert 0 < other.interval.high <= 1.0
