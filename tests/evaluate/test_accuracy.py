"""Accuracy and confusion matrix against scikit-learn, of random predictions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from limbeck.evaluate.metrics import accuracy, confusion
from limbeck.export.predictor import Predictions


def drawn(seed: int, count: int, classes: int) -> Predictions:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes)).astype(np.float32)
    return Predictions(logits, random.integers(classes, size=count))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(2, 12))
def test_accuracy_and_confusion_are_sklearns(seed, count, classes):
    some = drawn(seed, count, classes)
    top = some.logits.argmax(axis=1)
    found = accuracy(some)
    assert found.value == metrics.accuracy_score(some.labels, top)
    assert found.value == found.correct / found.total
    assert found.total == count
    assert found.interval.low <= found.value <= found.interval.high
    expected = metrics.confusion_matrix(some.labels, top, labels=range(classes))
    np.testing.assert_array_equal(confusion(some), expected)


def test_rows_are_labels_and_columns_predictions():
    logits = np.zeros((3, 4), dtype=np.float32)
    logits[:, 3] = 1
    counts = confusion(Predictions(logits, np.array([1, 1, 2])))
    assert counts[1][3] == 2
    assert counts[2][3] == 1
    assert sum(map(sum, counts)) == 3


@pytest.mark.parametrize("right", [0, 5])
def test_all_wrong_and_all_right_keep_an_interval(right):
    logits = np.eye(2, dtype=np.float32)[np.zeros(5, dtype=int)]
    found = accuracy(Predictions(logits, np.full(5, 0 if right else 1)))
    assert found.value == right / 5
    assert found.interval.high - found.interval.low > 0.4
