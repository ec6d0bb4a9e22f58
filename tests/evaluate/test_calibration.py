"""The error is torchmetrics'; the bins add up to it; the likelihood is scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics

from limbeck.evaluate.calibration.metrics import Calibration, calibration
from limbeck.export.predictor import Predictions


def drawn(seed: int, count: int, classes: int, scale: float) -> Predictions:
    random = np.random.default_rng(seed)
    logits = (scale * random.normal(size=(count, classes))).astype(np.float32)
    return Predictions(logits, random.integers(classes, size=count))


def by_hand(found: Calibration) -> float:
    total = sum(b.count for b in found.bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in found.bins) / total


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 300),
    st.integers(2, 10),
    st.sampled_from([0.1, 1.0, 10.0, 100.0]),
    st.sampled_from([1, 10, 15]),
)
def test_the_bins_add_up_to_torchmetrics_error(seed, count, classes, scale, bins):
    some = drawn(seed, count, classes, scale)
    found = calibration(some, bins=bins)
    assert found.ece == pytest.approx(by_hand(found), abs=1e-5)
    assert len(found.bins) == bins
    assert sum(b.count for b in found.bins) == count


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_error_is_that_of_torchmetrics_own_metric(scale):
    from torchmetrics.classification import MulticlassCalibrationError

    some = drawn(0, 500, 6, scale)
    metric = MulticlassCalibrationError(num_classes=6, n_bins=15, norm="l1")
    metric.update(torch.softmax(torch.from_numpy(some.logits), 1), torch.from_numpy(some.labels))
    assert calibration(some).ece == pytest.approx(float(metric.compute()), abs=1e-6)


def test_answers_of_full_confidence_fall_into_the_last_bin():
    logits = np.float32([[0, 1000], [0, 1000], [1000, 0], [0, 2.9]])
    found = calibration(Predictions(logits, np.array([1, 0, 0, 1])))
    assert found.bins[-1].count == 4
    assert found.ece == pytest.approx(abs(0.75 - found.bins[-1].confidence), abs=1e-6)


def test_the_likelihood_is_sklearns_log_loss():
    some = drawn(3, 200, 5, 2.0)
    probabilities = special.softmax(some.logits.astype(float), axis=1)
    expected = metrics.log_loss(some.labels, probabilities, labels=range(5))
    assert calibration(some).nll == pytest.approx(expected, rel=1e-6)


def test_a_model_that_draws_its_labels_from_its_answers_is_calibrated():
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(20_000, 4)).astype(np.float32)
    steps = special.softmax(logits.astype(float), axis=1).cumsum(axis=1)
    labels = np.minimum((random.random((20_000, 1)) > steps).sum(axis=1), 3)
    assert calibration(Predictions(logits, labels)).ece < 0.015
    assert calibration(Predictions(5 * logits, labels)).ece > 0.1
