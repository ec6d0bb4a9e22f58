"""Calibration errors against torchmetrics and scikit-learn, temperatures against scipy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from contexts import digits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from sklearn import calibration as sklearn_calibration
from sklearn import metrics

from limbeck.evaluate.calibration import Calibration, evaluate
from limbeck.evaluate.calibration import metrics as binned
from limbeck.evaluate.calibration.correction import RANGE, Temperature, fit_temperature, scaled
from limbeck.evaluate.calibration.metrics import calibration, gaps, reliability, top
from limbeck.evaluate.metrics import log_probabilities, losses
from limbeck.export.predictor import Predictions, predict

SCALES = st.sampled_from([0.1, 1.0, 10.0])


def drawn(seed: int, count: int, classes: int, scale: float) -> Predictions:
    random = np.random.default_rng(seed)
    logits = (scale * random.normal(size=(count, classes))).astype(np.float32)
    return Predictions(logits, random.integers(classes, size=count))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(2, 8), SCALES)
def test_ece_and_mce_equal_torchmetrics(seed, count, classes, scale):
    from torchmetrics.functional.classification import multiclass_calibration_error

    some = drawn(seed, count, classes, scale)
    found = reliability(log_probabilities(some.logits), some.labels, bins=10)
    probabilities = torch.from_numpy(special.softmax(some.logits.astype(float), axis=1)).float()
    # It puts a confidence of exactly 1 into a bin of its own.
    inside = probabilities.clamp(max=float(binned.JUST_UNDER_ONE))
    for norm, error in (("l1", found.ece), ("max", found.mce)):
        expected = multiclass_calibration_error(
            inside, torch.from_numpy(some.labels), classes, n_bins=10, norm=norm
        )
        assert error == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_default_of_15_bins_equals_torchmetrics_metric_class(scale):
    from torchmetrics.classification import MulticlassCalibrationError

    some = drawn(0, 500, 6, scale)
    metric = MulticlassCalibrationError(num_classes=6, n_bins=15, norm="l1")
    metric.update(torch.softmax(torch.from_numpy(some.logits), 1), torch.from_numpy(some.labels))
    assert calibration(some).ece == pytest.approx(float(metric.compute()), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 300),
    st.integers(2, 10),
    st.sampled_from([0.1, 1.0, 10.0, 100.0]),
    st.sampled_from([1, 10, 15]),
)
def test_the_reliability_diagram_adds_up_to_the_ece(seed, count, classes, scale, bins):
    found = calibration(drawn(seed, count, classes, scale), bins=bins)
    assert len(found.bins) == bins
    assert sum(b.count for b in found.bins) == count
    by_hand = sum(b.count * abs(b.accuracy - b.confidence) for b in found.bins) / count
    assert found.ece == pytest.approx(by_hand, abs=1e-5)


def test_the_pipelines_calibration_is_the_evaluations():
    some = drawn(1, 300, 5, 2.0)
    whole, summary = reliability(log_probabilities(some.logits), some.labels), calibration(some)
    assert (summary.ece, summary.nll, summary.bins) == (whole.ece, whole.nll, whole.bins)
    probabilities = special.softmax(some.logits.astype(float), axis=1)
    expected = metrics.log_loss(some.labels, probabilities, labels=range(5))
    assert summary.nll == pytest.approx(expected, rel=1e-6)


def test_a_confidence_of_one_falls_into_the_last_bin():
    logits = np.float32([[0, 1000], [0, 1000], [1000, 0], [0, 2.9]])
    found = calibration(Predictions(logits, np.array([1, 0, 0, 1])))
    assert found.bins[-1].count == 4
    assert found.ece == pytest.approx(abs(0.75 - found.bins[-1].confidence), abs=1e-6)


def test_labels_drawn_from_the_probabilities_are_calibrated():
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(20_000, 4)).astype(np.float32)
    cumulated = special.softmax(logits.astype(float), axis=1).cumsum(axis=1)
    labels = np.minimum((random.random((20_000, 1)) > cumulated).sum(axis=1), 3)
    assert calibration(Predictions(logits, labels)).ece < 0.015
    assert calibration(Predictions(5 * logits, labels)).ece > 0.1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 200), st.booleans())
def test_equal_mass_bins_equal_sklearn_calibration_curve(seed, count, tied):
    random = np.random.default_rng(seed)
    confidence = random.random(count).round(1) if tied else random.random(count)
    right = (random.random(count) < 0.6).astype(float)
    binning = binned.equal_mass(confidence, bins=7)
    filled = [b for b in binned.diagram(confidence, right, binning) if b.count]
    accuracy, mean_confidence = sklearn_calibration.calibration_curve(
        right, confidence, n_bins=7, strategy="quantile"
    )
    assert [b.accuracy for b in filled] == pytest.approx(accuracy.tolist())
    assert [b.confidence for b in filled] == pytest.approx(mean_confidence.tolist())
    by_hand = sum(b.count * abs(b.accuracy - b.confidence) for b in filled) / count
    assert binned.expected_calibration_error(confidence, right, binning) == pytest.approx(by_hand)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.integers(2, 5), SCALES)
def test_the_class_wise_error_is_the_mean_over_classes(seed, count, classes, scale):
    some = drawn(seed, count, classes, scale)
    probabilities = special.softmax(some.logits.astype(float), axis=1)
    total = 0.0
    for c in range(classes):
        column, hits = probabilities[:, c], some.labels == c
        place = np.minimum((column.astype(np.float32) * np.float32(5)).astype(int), 4)
        for b in set(place.tolist()):
            inside = place == b
            total += inside.mean() * abs(hits[inside].mean() - column[inside].mean())
    found = binned.class_wise_calibration_error(probabilities, some.labels, bins=5)
    assert found == pytest.approx(total / classes)


def test_the_debiased_error_is_unbiased_and_the_plain_one_is_not():
    random = np.random.default_rng(0)
    debiased, plain = [], []
    for _ in range(300):
        confidence = random.uniform(0.5, 1.0, 200)
        right = (random.random(200) < confidence - 0.1).astype(float)
        bins = binned.equal_mass(confidence, bins=10)
        debiased.append(binned.debiased_calibration_error(confidence, right, bins) ** 2)
        filled = binned.diagram(confidence, right, bins)
        plain.append(sum(b.count * (b.accuracy - b.confidence) ** 2 for b in filled) / 200)
    assert np.mean(debiased) == pytest.approx(0.01, abs=0.0015)
    assert np.mean(plain) > 0.015


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 100), st.integers(2, 6), SCALES)
def test_the_temperature_minimizes_the_loss_as_by_scipy(seed, count, classes, scale):
    random = np.random.default_rng(seed)
    logits = scale * random.normal(size=(count, classes))
    labels = (logits / (2 * scale) + random.gumbel(size=logits.shape)).argmax(axis=1)
    some = Predictions(logits.astype(np.float32), labels)
    found = fit_temperature(some)

    def loss(log_inverse: float) -> float:
        log_p = special.log_softmax(np.exp(log_inverse) * some.logits.astype(float), axis=1)
        return float(losses(log_p, labels).mean())

    ends = np.log(1 / np.array(RANGE[::-1]))
    reference = optimize.minimize_scalar(loss, bounds=ends, method="bounded")
    if found.fitted:
        assert loss(-np.log(found.value)) <= reference.fun + 1e-9
    else:
        # A loss that underflows to 0 does so at many temperatures, the ends among them.
        assert min(loss(end) for end in ends) <= reference.fun + 1e-9


def test_the_temperature_of_logits_times_three_is_three():
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(20_000, 4))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    found = fit_temperature(Predictions((3 * logits).astype(np.float32), labels))
    assert found.value == pytest.approx(3.0, rel=0.03)
    assert found.fitted


def test_predictions_that_do_not_bound_the_temperature_leave_it_at_one():
    some = drawn(0, 20, 3, 1.0)
    best = Predictions(some.logits, some.logits.argmax(axis=1))
    worst = Predictions(some.logits, some.logits.argmin(axis=1))
    flat = Predictions(np.zeros((4, 3), dtype=np.float32), np.array([0, 1, 2, 0]))
    impossible = Predictions(np.float32([[0, -np.inf], [np.inf, 0]]), np.array([1, 1]))
    confident = Predictions(np.float32([[1e4, -1e4]]), np.array([0]))
    for unbounded in (best, worst, flat, impossible, confident):
        assert fit_temperature(unbounded) == Temperature(value=1.0, fitted=False)


def test_classes_of_probability_zero_do_not_change_the_temperature():
    some = drawn(2, 60, 4, 3.0)
    wider = np.pad(some.logits, ((0, 0), (0, 1)), constant_values=-np.inf)
    assert fit_temperature(Predictions(wider, some.labels)).value == pytest.approx(
        fit_temperature(some).value
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20))
def test_scaled_log_probabilities_are_log_softmax_of_divided_logits(seed, temperature):
    some = drawn(seed, 10, 4, 3.0)
    log_p = log_probabilities(some.logits)
    found = scaled(log_p, Temperature(value=temperature, fitted=True))
    expected = special.log_softmax(some.logits.astype(float) / temperature, axis=1)
    assert found == pytest.approx(expected, abs=1e-9)
    assert (found.argmax(axis=1) == some.logits.argmax(axis=1)).all()


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        ([[2.0, 1.0]], [0]),
        ([[2.0, 1.0]], [1]),
        ([[1.0]], [0]),
        ([[1e4, -1e4]] * 3, [0, 0, 0]),
        ([[np.inf, 0.0]] * 3, [1, 1, 0]),
        ([[-np.inf, 0.0]] * 3, [1, 1, 1]),
        ([[0.0, 0.0]] * 4, [0, 1, 0, 1]),
    ],
)
def test_degenerate_predictions_give_no_nan(logits, labels):
    found = reliability(log_probabilities(np.float32(logits)), np.array(labels))
    values = found.model_dump(exclude={"bins"})
    assert not any(np.isnan(value) for value in values.values()), values
    assert sum(one.count for one in found.bins) == len(labels)
    confidence, right = top(log_probabilities(np.float32(logits)), np.array(labels))
    spread = gaps(log_probabilities(np.float32(logits)), np.array(labels))
    assert spread.sum(axis=1) == pytest.approx(right - confidence)


def test_evaluation_of_digits():
    context = digits()
    found = evaluate(context)
    assert len(found.comparisons) == 6
    labels = context.student_predictions.labels
    for side, model in (("student", found.student), ("teacher", found.teacher)):
        predictions = getattr(context, f"{side}_predictions")
        exported = special.softmax(predictions.logits.astype(float), axis=1)
        expected = metrics.log_loss(labels, exported, labels=range(10))
        assert model.shipped.nll == pytest.approx(expected)
        assert getattr(found.comparisons[2], side).value == pytest.approx(expected)
        assert getattr(found.comparisons[1], side).value == pytest.approx(model.shipped.brier)
        assert getattr(found.comparisons[4], side).value == pytest.approx(model.scaled.brier)
        assert getattr(found.comparisons[0], side).value <= model.shipped.ece + 1e-6
    assert Calibration.model_validate_json(found.model_dump_json()) == found


def test_the_temperature_is_fitted_on_validation_samples_only():
    context = digits()
    validation = predict(context.student.predictor, context.validation())
    assert evaluate(context).student.temperature == fit_temperature(validation)
    assert fit_temperature(validation) != fit_temperature(context.student_predictions)


def test_no_teacher_and_an_unbounded_temperature_are_noted():
    class Confident:
        def predict(self, batch):
            return {"logits": np.eye(10)[np.asarray(batch["labels"])]}

    context = digits(teacher=False)
    confident = dataclasses.replace(context.student, predictor=Confident())
    found = evaluate(dataclasses.replace(context, student=confident))
    assert found.teacher is None
    assert {one.verdict for one in found.comparisons} == {"no reference"}
    assert found.student.scaled == found.student.shipped
    assert "No temperature was fitted to the student" in found.notes[0]
