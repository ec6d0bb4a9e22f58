"""Calibration errors beside torchmetrics' and scikit-learn's, temperatures beside scipy's."""

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
from torchmetrics.functional.classification import multiclass_calibration_error

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
def test_the_errors_are_torchmetrics(seed, count, classes, scale):
    some = drawn(seed, count, classes, scale)
    found = reliability(log_probabilities(some.logits), some.labels, bins=10)
    probabilities = torch.from_numpy(special.softmax(some.logits.astype(float), axis=1)).float()
    # It puts a confidence of exactly 1 into a bin of its own.
    inside = probabilities.clamp(max=float(binned.JUST_UNDER_ONE))
    for norm, ours in (("l1", found.ece), ("max", found.mce)):
        theirs = multiclass_calibration_error(
            inside, torch.from_numpy(some.labels), classes, n_bins=10, norm=norm
        )
        assert ours == pytest.approx(float(theirs), abs=1e-5)


def test_the_error_is_the_one_that_the_pipeline_reports():
    some = drawn(1, 300, 5, 2.0)
    ours, pipelines = reliability(log_probabilities(some.logits), some.labels), calibration(some)
    assert ours.ece == pytest.approx(pipelines.ece, abs=1e-6)
    assert ours.nll == pytest.approx(pipelines.nll)
    assert [one.count for one in ours.bins] == [one.count for one in pipelines.bins]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 200), st.booleans())
def test_bins_of_equal_mass_are_sklearns(seed, count, tied):
    random = np.random.default_rng(seed)
    confidence = random.random(count).round(1) if tied else random.random(count)
    right = (random.random(count) < 0.6).astype(float)
    found = binned.equal_mass(confidence, bins=7)
    held = binned.diagram(confidence, right, found)
    share, sure = sklearn_calibration.calibration_curve(
        right, confidence, n_bins=7, strategy="quantile"
    )
    assert [b.accuracy for b in held if b.count] == pytest.approx(share.tolist())
    assert [b.confidence for b in held if b.count] == pytest.approx(sure.tolist())
    by_hand = sum(b.count * abs(b.accuracy - b.confidence) for b in held) / count
    assert binned.expected_calibration_error(confidence, right, found) == pytest.approx(by_hand)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.integers(2, 5), SCALES)
def test_the_class_wise_error_is_the_mean_over_classes_of_gaps_counted_by_hand(
    seed, count, classes, scale
):
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


def test_the_debiased_error_is_right_on_average_where_the_plain_one_is_not():
    random = np.random.default_rng(0)
    debiased, plain = [], []
    for _ in range(300):
        confidence = random.uniform(0.5, 1.0, 200)
        right = (random.random(200) < confidence - 0.1).astype(float)
        bins = binned.equal_mass(confidence, bins=10)
        debiased.append(binned.debiased_calibration_error(confidence, right, bins) ** 2)
        held = binned.diagram(confidence, right, bins)
        plain.append(sum(b.count * (b.accuracy - b.confidence) ** 2 for b in held) / 200)
    assert np.mean(debiased) == pytest.approx(0.01, abs=0.0015)
    assert np.mean(plain) > 0.015


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 100), st.integers(2, 6), SCALES)
def test_the_temperature_is_where_scipy_finds_the_least_loss(seed, count, classes, scale):
    random = np.random.default_rng(seed)
    logits = scale * random.normal(size=(count, classes))
    labels = (logits / (2 * scale) + random.gumbel(size=logits.shape)).argmax(axis=1)
    some = Predictions(logits.astype(np.float32), labels)
    found = fit_temperature(some)

    def loss(log_inverse: float) -> float:
        log_p = special.log_softmax(np.exp(log_inverse) * some.logits.astype(float), axis=1)
        return float(losses(log_p, labels).mean())

    ends = np.log(1 / np.array(RANGE[::-1]))
    theirs = optimize.minimize_scalar(loss, bounds=ends, method="bounded")
    if found.fitted:
        assert loss(-np.log(found.value)) <= theirs.fun + 1e-9
    else:
        # Where the loss underflows to nothing, it does so at many temperatures, an end among them.
        assert min(loss(end) for end in ends) <= theirs.fun + 1e-9


def test_a_model_made_too_sure_by_three_is_cooled_by_three():
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(20_000, 4))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    found = fit_temperature(Predictions((3 * logits).astype(np.float32), labels))
    assert found.value == pytest.approx(3.0, rel=0.03)
    assert found.fitted


def test_answers_that_set_no_bound_leave_the_temperature_at_one():
    some = drawn(0, 20, 3, 1.0)
    best = Predictions(some.logits, some.logits.argmax(axis=1))
    worst = Predictions(some.logits, some.logits.argmin(axis=1))
    flat = Predictions(np.zeros((4, 3), dtype=np.float32), np.array([0, 1, 2, 0]))
    ruled_out = Predictions(np.float32([[0, -np.inf], [np.inf, 0]]), np.array([1, 1]))
    sure = Predictions(np.float32([[1e4, -1e4]]), np.array([0]))
    for unbounded in (best, worst, flat, ruled_out, sure):
        assert fit_temperature(unbounded) == Temperature(value=1.0, fitted=False)


def test_classes_ruled_out_do_not_disturb_the_temperature():
    some = drawn(2, 60, 4, 3.0)
    wider = np.pad(some.logits, ((0, 0), (0, 1)), constant_values=-np.inf)
    assert fit_temperature(Predictions(wider, some.labels)).value == pytest.approx(
        fit_temperature(some).value
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20))
def test_scaling_keeps_the_answers_and_is_softmax_of_divided_logits(seed, temperature):
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
def test_degenerate_answers_have_figures_without_nan(logits, labels):
    found = reliability(log_probabilities(np.float32(logits)), np.array(labels))
    figures = found.model_dump(exclude={"bins"})
    assert not any(np.isnan(value) for value in figures.values()), figures
    assert sum(one.count for one in found.bins) == len(labels)
    confidence, right = top(log_probabilities(np.float32(logits)), np.array(labels))
    spread = gaps(log_probabilities(np.float32(logits)), np.array(labels))
    assert spread.sum(axis=1) == pytest.approx(right - confidence)


def test_the_question_answers_of_digits():
    context = digits()
    found = evaluate(context)
    assert len(found.comparisons) == 6
    labels = context.student_predictions.labels
    for side, model in (("student", found.student), ("teacher", found.teacher)):
        answered = context.student_predictions if side == "student" else context.teacher_predictions
        shipped = special.softmax(answered.logits.astype(float), axis=1)
        expected = metrics.log_loss(labels, shipped, labels=range(10))
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


def test_without_a_teacher_and_with_an_unbounded_temperature_it_says_so():
    class Sure:
        def predict(self, batch):
            return {"logits": np.eye(10)[np.asarray(batch["labels"])]}

    context = digits(teacher=False)
    sure = dataclasses.replace(context.student, predictor=Sure())
    found = evaluate(dataclasses.replace(context, student=sure))
    assert found.teacher is None
    assert {finding.verdict for finding in found.comparisons} == {"no reference"}
    assert found.student.scaled == found.student.shipped
    assert "No temperature was fitted to the student" in found.notes[0]
