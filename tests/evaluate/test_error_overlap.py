"""Agreement, slices and error overlap against scipy, scikit-learn and counts by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from contexts import digits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import metrics

from limbeck.errors import InputError
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.fidelity import Fidelity, accuracy_slices, evaluate, parts
from limbeck.evaluate.fidelity.error_overlap import error_overlap, most_frequent_disagreements
from limbeck.evaluate.metrics import brier, divergences, entropies, log_probabilities, losses, right
from limbeck.export.predictor import Predictions


def pair(seed: int, count: int, classes: int) -> tuple[Predictions, Predictions]:
    """Two models with noise of their own on the same logits, so that their errors correlate."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    logits = random.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    return tuple(
        Predictions((logits + random.normal(size=logits.shape)).astype(np.float32), labels)
        for _ in range(2)
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 6))
def test_metrics_per_sample_are_scipys_and_sklearns(seed, count, classes):
    student, teacher = pair(seed, count, classes)
    log_q, log_p = (log_probabilities(one.logits) for one in (student, teacher))
    q, p = (special.softmax(a.logits.astype(float), axis=1) for a in (student, teacher))
    assert divergences(log_p, log_q) == pytest.approx(stats.entropy(p, q, axis=1), abs=1e-12)
    assert entropies(log_q) == pytest.approx(stats.entropy(q, axis=1))
    labels = student.labels
    assert losses(log_q, labels).mean() == pytest.approx(
        metrics.log_loss(labels, q, labels=range(classes))
    )
    assert brier(log_q, labels) == pytest.approx(((q - np.eye(classes)[labels]) ** 2).sum(axis=1))
    assert right(student).mean() == metrics.accuracy_score(labels, q.argmax(axis=1))


def test_infinite_logits_take_or_exclude_all_probability():
    log_p = log_probabilities(
        np.float32([[np.inf, 0, 1], [np.inf, np.inf, 0], [0, -np.inf, 0], [1e4, -1e4, 0]])
    )
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [1, 0, 0]]
    assert np.exp(log_p).tolist() == expected
    assert losses(log_p, np.array([1, 0, 1, 0])).tolist() == [
        np.inf,
        pytest.approx(np.log(2)),
        np.inf,
        0.0,
    ]
    assert not np.isnan(entropies(log_p)).any()
    assert divergences(log_p, log_p).tolist() == [0, 0, 0, 0]
    assert divergences(log_p[2:3], log_p[:1]).tolist() == [np.inf]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 6))
def test_shared_errors_are_those_counted_one_by_one(seed, count, classes):
    student, teacher = pair(seed, count, classes)
    found = error_overlap(student, teacher, resamples=Resamples(count, n_resamples=5))
    own, reference = (one.logits.argmax(axis=1) for one in (student, teacher))
    wrong = {k for k in range(count) if own[k] != student.labels[k]}
    mistaken = {k for k in range(count) if reference[k] != student.labels[k]}
    same = {k for k in wrong if own[k] == reference[k]}
    assert found.same_error == len(same)
    assert found.other_error == len((wrong & mistaken) - same)
    assert found.only_student == len(mistaken - wrong)
    assert found.only_teacher == len(wrong - mistaken)
    assert found.both_right == count - len(wrong | mistaken)
    if wrong:
        assert found.shared.value == pytest.approx(len(wrong & mistaken) / len(wrong))
        assert found.same_prediction.value == pytest.approx(len(same) / len(wrong))
    else:
        assert found.shared is None
    if wrong | mistaken:
        assert found.jaccard.value == pytest.approx(
            metrics.jaccard_score(own != student.labels, reference != student.labels)
        )
    if 0 < len(wrong) < count:
        kappa = metrics.cohen_kappa_score(own == student.labels, reference == student.labels)
        assert found.consistency.value == pytest.approx(kappa)


def test_independent_errors_overlap_by_chance():
    random = np.random.default_rng(0)
    labels = np.zeros(20_000, dtype=np.int64)
    student, teacher = (
        Predictions(np.eye(3)[random.choice(3, size=20_000, p=p)].astype(np.float32), labels)
        for p in ([0.7, 0.2, 0.1], [0.8, 0.1, 0.1])
    )
    found = error_overlap(student, teacher, resamples=Resamples(20_000, n_resamples=50))
    assert found.shared.value == pytest.approx(found.shared_if_independent, abs=0.02)
    assert found.jaccard.value == pytest.approx(found.jaccard_if_independent, abs=0.02)
    assert found.consistency.value == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("errors", [0, 5])
def test_models_all_right_or_all_wrong_have_a_result(errors):
    labels = np.zeros(5, dtype=np.int64)
    one = Predictions(np.eye(2)[np.full(5, 1 if errors else 0)].astype(np.float32), labels)
    found = error_overlap(one, one, resamples=Resamples(5, n_resamples=10))
    assert found.both_right == 5 - errors
    assert (found.shared is None) == (errors == 0)
    assert found.consistency is None
    assert most_frequent_disagreements(one, one, ("a", "b")) == ()


def test_disagreements_are_listed_the_most_frequent_first():
    def predicting(*classes: int) -> Predictions:
        return Predictions(np.eye(3)[list(classes)].astype(np.float32), np.array([0, 1, 1, 2, 0]))

    student, teacher = predicting(1, 2, 2, 2, 0), predicting(0, 1, 1, 2, 0)
    first, second = most_frequent_disagreements(student, teacher, ("cat", "dog", "eel"))
    assert (first.teacher, first.student, first.count) == ("dog", "eel", 2)
    assert (first.teacher_right, first.student_right) == (2, 0)
    assert (second.teacher, second.student, second.count) == ("cat", "dog", 1)
    assert most_frequent_disagreements(student, teacher, ("cat", "dog", "eel"), most=1) == (first,)


def test_slices_are_the_metrics_of_their_samples_alone():
    student, teacher = pair(3, 80, 4)
    groups = {"where": np.array(["north", "south"])[np.arange(80) % 2]}
    log_q, log_p = (log_probabilities(one.logits) for one in (student, teacher))
    kl = divergences(log_p, log_q)
    same = (student.logits.argmax(axis=1) == teacher.logits.argmax(axis=1)).astype(float)
    found = accuracy_slices(
        list(parts(student.labels, ("a", "b", "c", "d"), groups)),
        right(student),
        right(teacher),
        same=same,
        kl=kl,
        resamples=Resamples(80, n_resamples=200),
    )
    assert [part.name for part in found] == ["a", "b", "c", "d", "north", "south"]
    for part in found:
        rows = (
            groups["where"] == part.name
            if part.attribute == "where"
            else student.labels == "abcd".index(part.name)
        )
        assert part.samples == rows.sum()
        assert part.student.value == pytest.approx(right(student)[rows].mean())
        assert part.difference.value == pytest.approx(part.student.value - part.teacher.value)
        assert part.agreement.value == pytest.approx(same[rows].mean())
        assert part.kl.value == pytest.approx(kl[rows].mean())
        assert part.kl.interval.low <= part.kl.value <= part.kl.interval.high


def test_the_fidelity_of_digits_models():
    context = digits()
    found = evaluate(context)
    accuracy, agreement, divergence = found.comparisons
    student, teacher = context.student_predictions, context.teacher_predictions
    assert accuracy.student.value == right(student).mean()
    assert accuracy.teacher.value == right(teacher).mean()
    assert accuracy.difference.interval.low < accuracy.difference.value
    same = student.logits.argmax(axis=1) == teacher.logits.argmax(axis=1)
    assert agreement.student.value == same.mean()
    q, p = (special.softmax(a.logits.astype(float), axis=1) for a in (student, teacher))
    assert divergence.student.value == pytest.approx(stats.entropy(p, q, axis=1).mean())
    assert len(found.slices) == 12
    assert sum(part.count for part in found.disagreements) <= (~same).sum()
    assert Fidelity.model_validate_json(found.model_dump_json()) == found


def test_without_a_teacher_there_is_a_note():
    found = evaluate(digits(teacher=False))
    assert [one.verdict for one in found.comparisons] == ["no reference"]
    assert found.overlap is None
    assert found.slices[0].difference is None
    assert "no teacher" in found.notes[0]


def test_a_student_agrees_with_itself():
    context = digits()
    found = evaluate(dataclasses.replace(context, teacher=context.student))
    accuracy, agreement, divergence = found.comparisons
    assert accuracy.verdict in {"non-inferior", "inconclusive"}
    assert agreement.student.value == 1.0
    assert agreement.student.interval.low < 1.0
    assert divergence.student.value == 0.0
    assert found.disagreements == ()


def test_groups_that_do_not_name_every_sample_are_refused():
    context = dataclasses.replace(digits(), sensitive_features={"writer": np.array(["left"])})
    with pytest.raises(InputError, match=r"groups\.writer: got '1 names'; allowed: 200"):
        evaluate(context)
