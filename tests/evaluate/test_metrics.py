"""Accuracy and fidelity against scikit-learn and scipy, parity against plain differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import metrics

from limbeck.errors import LimbeckError
from limbeck.evaluate.metrics import confusion_matrix, fidelity, parity, score_value
from limbeck.export.predictor import Predictions
from limbeck.tasks.scores import ACCURACY, ScoreTable


def pair(
    seed: int, count: int, classes: int, scale: float = 3.0
) -> tuple[Predictions, Predictions]:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    logits = scale * random.normal(size=(2, count, classes)).astype(np.float32)
    return Predictions(logits[0], labels), Predictions(logits[1], labels)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 10))
def test_divergence_is_scipys_entropy(seed, count, classes):
    student, teacher = pair(seed, count, classes)
    p, q = (special.softmax(a.logits.astype(float), axis=1) for a in (teacher, student))
    found = fidelity(student, teacher)
    assert found.kl == pytest.approx(float(np.mean(stats.entropy(p, q, axis=1))), rel=1e-9)
    assert found.agreement == np.mean(p.argmax(axis=1) == q.argmax(axis=1))
    assert found.interval.low <= found.agreement <= found.interval.high


def test_equal_predictions_have_no_divergence_even_shifted():
    one, _ = pair(0, 20, 5)
    shifted = Predictions(one.logits + 7, one.labels)
    assert fidelity(one, one).kl == 0.0
    assert fidelity(shifted, one).kl == pytest.approx(0.0, abs=1e-7)
    assert fidelity(shifted, one).agreement == 1.0


def test_large_and_impossible_logits_stay_finite():
    labels = np.array([0])
    certain = Predictions(np.array([[1e4, -1e4, 0]], dtype=np.float32), labels)
    excluded = Predictions(np.array([[1.0, -np.inf, 2.0]], dtype=np.float32), labels)
    flat = Predictions(np.zeros((1, 3), dtype=np.float32), labels)
    assert fidelity(flat, certain).kl == pytest.approx(np.log(3))
    assert np.isfinite(fidelity(flat, excluded).kl)
    assert fidelity(excluded, excluded).kl == 0.0


def test_parity_measures_the_largest_and_the_mean_difference():
    reference, _ = pair(1, 30, 4)
    logits = reference.logits.copy()
    logits[3, 2] += 0.5
    found = parity(reference.logits, logits, samples=30, tolerance=0.6)
    assert found.max_abs_difference == pytest.approx(0.5, abs=1e-6)
    assert found.mean_abs_difference == pytest.approx(0.5 / 120, abs=1e-8)
    assert found.samples == 30
    assert found.within
    assert not parity(reference.logits, logits, samples=30, tolerance=0.4).within


def test_parity_of_several_targets_records_the_one_closest_to_its_tolerance():
    reference = np.zeros((4, 2))
    exported = reference + np.array([0.05, 3.0])
    found = parity(reference, exported, samples=4, tolerance=np.array([0.1, 10.0]))
    assert found.within
    assert (found.max_abs_difference, found.tolerance) == (0.05, 0.1)
    assert found.mean_abs_difference == pytest.approx(0.05)
    assert not parity(reference, exported, samples=4, tolerance=np.array([0.04, 10.0])).within


def test_parity_counts_equal_infinities_as_equal():
    logits = np.array([[1.0, -np.inf]], dtype=np.float32)
    assert parity(logits, logits, samples=1, tolerance=0.0).within
    other = np.array([[1.0, 0.0]], dtype=np.float32)
    assert not parity(logits, other, samples=1, tolerance=1e6).within


@pytest.mark.parametrize("count", [9, 10])
def test_predictions_of_other_samples_are_refused(count):
    one, _ = pair(0, 10, 4)
    other, _ = pair(1, count, 4)
    with pytest.raises(LimbeckError, match="cannot be compared"):
        fidelity(one, other)


def drawn(seed: int, count: int, classes: int) -> Predictions:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes)).astype(np.float32)
    return Predictions(logits, random.integers(classes, size=count))


def accuracy(some, weights=None):
    table = ScoreTable([ACCURACY])
    weights = np.ones(len(some)) if weights is None else weights
    table.update({"logits": some.logits}, {"labels": some.labels}, {"logits": weights})
    return score_value(table, ACCURACY)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_weighted_accuracy_is_sklearns(seed, count):
    some = drawn(seed, count, 3)
    weights = np.random.default_rng(seed).random(count)
    expected = metrics.accuracy_score(
        some.labels, some.logits.argmax(axis=1), sample_weight=weights
    )
    found = accuracy(some, weights)
    assert found.value == pytest.approx(expected)
    assert found.interval.method == "percentile bootstrap"
    assert found.interval.low <= found.value <= found.interval.high


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(2, 12))
def test_accuracy_and_confusion_are_sklearns(seed, count, classes):
    some = drawn(seed, count, classes)
    top = some.logits.argmax(axis=1)
    found = accuracy(some)
    assert found.value == metrics.accuracy_score(some.labels, top)
    assert found.samples == count
    assert found.interval.low <= found.value <= found.interval.high
    expected = metrics.confusion_matrix(some.labels, top, labels=range(classes))
    np.testing.assert_array_equal(confusion_matrix(some), expected)


def test_rows_are_labels_and_columns_predictions():
    logits = np.zeros((3, 4), dtype=np.float32)
    logits[:, 3] = 1
    counts = confusion_matrix(Predictions(logits, np.array([1, 1, 2])))
    assert counts[1][3] == 2
    assert counts[2][3] == 1
    assert sum(map(sum, counts)) == 3


@pytest.mark.parametrize("right", [0, 5])
def test_all_wrong_and_all_right_keep_an_interval(right):
    logits = np.eye(2, dtype=np.float32)[np.zeros(5, dtype=int)]
    found = accuracy(Predictions(logits, np.full(5, 0 if right else 1)))
    assert found.value == right / 5
    assert found.interval.high - found.interval.low > 0.4
