"""Rankings against scikit-learn; risk and deferral counted by hand; generated OOD images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from contexts import digits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics

from limbeck.core.measurement import Interval
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.context import Normalization
from limbeck.evaluate.metrics import Ranking, aurc, auroc, fpr_at_95_tpr, log_probabilities
from limbeck.evaluate.uncertainty import Uncertainty, evaluate
from limbeck.evaluate.uncertainty.interval_overlap import interval_overlaps, overlap
from limbeck.evaluate.uncertainty.ood import SCORES, Logits, ood_detection, ood_images
from limbeck.evaluate.uncertainty.selective_prediction import (
    SelectivePredictor,
    coverage_risk,
    defer,
    threshold_for,
    threshold_to_match,
)
from limbeck.export.predictor import Predictions


def scored(seed: int, count: int, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.random(count)
    hits = (random.random(count) < 0.3 + 0.5 * scores).astype(float)
    return (scores.round(1) if tied else scores), hits


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 80), st.booleans())
def test_auroc_and_fpr_equal_sklearn_on_every_resample(seed, count, tied):
    scores, hits = scored(seed, count, tied)
    rows = np.random.default_rng(seed).integers(count, size=(4, count))
    counts = np.stack([np.bincount(row, minlength=count) for row in rows]).astype(float)
    ranking = Ranking.of(scores)
    area, fpr = auroc(ranking, counts, hits), fpr_at_95_tpr(ranking, counts, hits)
    for k, row in enumerate(rows):
        if len(set(hits[row])) < 2:
            assert np.isnan(area[k])
            assert np.isnan(fpr[k])
            continue
        assert area[k] == pytest.approx(metrics.roc_auc_score(hits[row], scores[row]))
        false, true, _ = metrics.roc_curve(hits[row], scores[row], drop_intermediate=False)
        assert fpr[k] == pytest.approx(false[np.argmax(true >= 0.95 - 1e-9)])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.booleans())
def test_aurc_is_the_mean_risk_over_all_coverages(seed, count, tied):
    confidence, hits = scored(seed, count, tied)
    risks = [(1 - hits)[confidence >= least].mean() for least in confidence]
    found = aurc(Ranking.of(confidence), np.ones((1, count)), 1 - hits)
    assert found[0] == pytest.approx(np.mean(risks))
    curve = coverage_risk(confidence, 1 - hits)
    for point in curve:
        least = np.sort(confidence)[::-1][round(point.coverage * count) - 1]
        assert point.coverage == pytest.approx((confidence >= least).mean())
        assert point.risk == pytest.approx((1 - hits)[confidence >= least].mean())
    assert curve[-1].coverage == 1.0
    assert len(coverage_risk(confidence, 1 - hits, points=5)) <= 5


@pytest.mark.parametrize("risk", [0.0, 1.0])
def test_predictions_all_correct_or_all_wrong_have_a_constant_risk(risk):
    wrong = np.full(6, risk)
    ranking = Ranking.of(np.arange(6.0))
    assert aurc(ranking, np.ones((1, 6)), wrong).tolist() == [risk]
    assert np.isnan(auroc(ranking, np.ones((1, 6)), 1 - wrong)[0])


def test_best_aurc_is_the_aurc_with_all_errors_last():
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(200, 4))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    predictor = SelectivePredictor.of(Predictions(logits, labels))
    resamples = Resamples(200, n_resamples=50)
    found = predictor.summary(resamples.estimate(predictor.aurc), resamples=resamples)
    wrong = np.sort(1 - predictor.right)
    best = np.mean(np.cumsum(wrong) / np.arange(1, 201))
    assert found.best_aurc == pytest.approx(best)
    assert found.best_aurc < found.aurc.value
    assert sum(found.entropy.right) + sum(found.entropy.wrong) == 200
    for mean, hit in ((found.entropy.mean_right, 1), (found.entropy.mean_wrong, 0)):
        expected = special.entr(special.softmax(logits, axis=1)).sum(axis=1)[predictor.right == hit]
        assert mean.value == pytest.approx(expected.mean())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.booleans(), st.floats(0.01, 1))
def test_a_threshold_reaches_its_coverage(seed, count, tied, coverage):
    confidence, _ = scored(seed, count, tied)
    threshold = threshold_for(confidence, coverage)
    assert (confidence >= threshold).mean() >= min(coverage, 1) - 1 / count - 1e-9
    assert threshold in confidence


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans())
def test_the_threshold_to_match_is_the_lowest_that_matches(seed, count, tied):
    confidence, student = scored(seed, count, tied)
    teacher = (np.random.default_rng(seed + 1).random(count) < 0.8).astype(float)
    enough = [
        t
        for t in confidence
        if np.where(confidence >= t, student, teacher).mean() >= teacher.mean() - 1e-12
    ]
    found = threshold_to_match(confidence, student, teacher)
    assert found == (min(enough) if enough else np.inf)


def test_deferral_is_counted_by_hand():
    confidence = np.array([0.9, 0.8, 0.4, 0.3])
    student, teacher = (
        SelectivePredictor(log_p=None, confidence=confidence, right=np.array(right), entropy=None)
        for right in ([1.0, 0, 0, 1], [1.0, 1, 1, 0])
    )
    found = defer(student, teacher, coverage=0.5, threshold=0.8)
    assert found.answered.value == 0.5
    assert found.alone.value == 0.5
    assert found.with_teacher.value == 0.5
    assert found.against_teacher.value == -0.25
    assert found.with_person.value == 0.75
    nothing = defer(student, None, coverage=0.0, threshold=np.inf)
    assert (nothing.alone, nothing.with_teacher) == (None, None)
    assert nothing.with_person.value == 1.0


@settings(max_examples=50, deadline=None)
@given(*[st.floats(-1e3, 1e3)] * 4)
def test_the_overlap_of_intervals_is_a_symmetric_share(a, b, c, d):
    one = Interval(low=min(a, b), high=max(a, b), method="drawn")
    other = Interval(low=min(c, d), high=max(c, d), method="drawn")
    assert 0 <= overlap(one, other) <= 1
    assert overlap(one, other) == pytest.approx(overlap(other, one))
    assert overlap(one, one) == 1.0
    disjoint = Interval(low=one.high + 1, high=one.high + 2, method="drawn")
    assert overlap(one, disjoint) == 0.0


def test_intervals_of_a_student_equal_to_its_teacher_overlap_entirely():
    random = np.random.default_rng(0)
    log_p = log_probabilities(random.normal(size=(100, 3)))
    found = interval_overlaps(
        log_p, log_p, random.integers(3, size=100), resamples=Resamples(100, n_resamples=100)
    )
    assert [one.figure for one in found] == [
        "accuracy",
        "negative log-likelihood",
        "calibration error",
    ]
    assert {(one.overlap, one.width) for one in found} == {(1.0, 1.0)}


def test_scores_are_those_of_their_papers():
    logits = np.float32([[2.0, 0.0], [np.inf, 0.0], [0.0, -np.inf]])
    p = special.softmax(logits[:1].astype(float), axis=1)
    assert SCORES["maximum softmax probability"](logits).tolist() == [
        pytest.approx(p.max()),
        1.0,
        1.0,
    ]
    assert SCORES["entropy"](logits)[0] == pytest.approx((p * np.log(p)).sum())
    assert SCORES["entropy"](logits)[1:].tolist() == [0.0, 0.0]
    assert SCORES["energy"](logits).tolist() == [
        pytest.approx(np.log(np.exp(2) + 1)),
        np.inf,
        0.0,
    ]


def test_ood_images_have_pixels_in_the_unit_range():
    random = np.random.default_rng(0)
    pixels = Normalization(mean=(0.3, 0.5, 0.1), std=(0.2, 0.5, 0.4))
    mean, std = (np.array(part)[:, None, None] for part in (pixels.mean, pixels.std))
    originals = random.random((5, 3, 4, 6))
    made = dict(ood_images((originals - mean) / std, pixels, seed=1))
    pixels_of = {name: image * std + mean for name, image in made.items()}
    assert list(made) == ["noise", "shuffled pixels", "inverted"]
    assert pixels_of["inverted"] == pytest.approx(1 - originals, abs=1e-6)
    for image in pixels_of.values():
        assert image.shape == originals.shape
        assert image.min() >= -1e-6
        assert image.max() <= 1 + 1e-6
    # The same pixels with all their channels, in another order in every image.
    shuffled = pixels_of["shuffled pixels"]
    for one, other in zip(originals, shuffled, strict=True):
        assert np.sort(one.reshape(3, -1).T.round(5), axis=0) == pytest.approx(
            np.sort(other.reshape(3, -1).T, axis=0), abs=1e-5
        )
    assert set(map(tuple, originals[0].reshape(3, -1).T.round(4))) == set(
        map(tuple, shuffled[0].reshape(3, -1).T.round(4))
    )
    assert abs(shuffled - originals).max() > 0.1


def test_ood_auroc_is_half_on_the_same_distribution_and_one_on_a_separate_one():
    random = np.random.default_rng(0)
    inside = random.normal(size=(300, 4))
    separate = Logits(inside + 50 * np.eye(4)[random.integers(4, size=300)], np.zeros((100, 4)))
    same = Logits(inside, random.normal(size=(100, 4)))
    found = ood_detection(same, separate, samples="noise", n_resamples=200)
    assert [one.score for one in found] == list(SCORES)
    for one in found:
        assert one.count == (300, 100)
        assert one.auroc.teacher.value == 1.0
        assert one.fpr_at_95_tpr.teacher.value == 0.0
        assert one.auroc.student.interval.low < 0.5 < one.auroc.student.interval.high


def test_evaluation_of_digits():
    context = digits()
    found = evaluate(context, n_resamples=200)
    student = context.student_predictions
    p = special.softmax(student.logits.astype(float), axis=1)
    wrong = p.argmax(axis=1) != student.labels
    auroc_, aurc_, deferral, *ood = found.comparisons
    entropy = special.entr(p).sum(axis=1)
    assert auroc_.student.value == pytest.approx(metrics.roc_auc_score(wrong, entropy))
    assert aurc_.student == found.student.aurc
    assert (
        deferral.teacher.value
        == (context.teacher_predictions.logits.argmax(axis=1) == student.labels).mean()
    )
    assert len(ood) == 3
    assert len(found.ood) == 9
    assert found.ood[0].count == (40, 40)
    assert len(found.intervals) == 3
    for row in found.deferrals:
        assert row.with_person.value >= row.with_teacher.value
    assert Uncertainty.model_validate_json(found.model_dump_json()) == found


def test_ood_samples_need_no_label():
    context = digits()
    blank = np.zeros((70, 1, 8, 8), dtype=np.float32)
    found = evaluate(context, ood_samples=lambda: iter([{"image": blank}]), n_resamples=50)
    assert {one.samples for one in found.ood} == {"user-provided samples"}
    assert found.ood[0].count == (40, 40)


def test_thresholds_come_from_validation_samples():
    context = digits()
    with_others = dataclasses.replace(
        context, validation=lambda: iter([next(context.validation())])
    )
    one, other = evaluate(context, n_resamples=10), evaluate(with_others, n_resamples=10)
    assert one.deferrals != other.deferrals
    assert one.student.curve == other.student.curve


def test_missing_metrics_are_noted():
    class Oracle:
        def predict(self, batch):
            return {"logits": np.eye(10)[np.asarray(batch["labels"])]}

    context = dataclasses.replace(digits(teacher=False), normalization=None)
    oracle = dataclasses.replace(context.student, predictor=Oracle())
    found = evaluate(dataclasses.replace(context, student=oracle), n_resamples=20)
    assert [one.name for one in found.comparisons] == ["AURC"]
    assert found.ood == ()
    assert found.to_match is None
    assert found.student.entropy.mean_wrong is None
    assert ["no teacher" in found.notes[0], "all correct" in found.notes[1]] == [True, True]
    assert "images" in found.notes[2]
    assert Uncertainty.model_validate_json(found.model_dump_json()) == found
