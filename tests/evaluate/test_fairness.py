"""Fairness metrics against fairlearn, recall against scikit-learn, and excluded groups."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import recall_score

from limbeck.errors import InputError
from limbeck.evaluate.context import EvaluatedModel, EvaluationContext
from limbeck.evaluate.fairness import Fairness, by_class, by_group, evaluate
from limbeck.evaluate.fairness.bootstrap import estimate
from limbeck.evaluate.fairness.by_group import inheritance


class Table:
    """A predictor of given classes, by the sample's index."""

    def __init__(self, predicted, classes):
        self._logits = 5 * np.eye(classes, dtype=np.float32)[predicted]

    def predict(self, batch):
        return {"logits": self._logits[batch["index"]]}


def context(labels, student, teacher=None, *, classes=2, validation=None, **attributes):
    def batches(of):
        yield {"index": np.arange(len(of)), "labels": np.asarray(of)}

    return EvaluationContext(
        student=EvaluatedModel("student", Table(student, classes)),
        teacher=None if teacher is None else EvaluatedModel("teacher", Table(teacher, classes)),
        batches=lambda: batches(labels),
        validation=lambda: batches(labels if validation is None else validation),
        classes=tuple(f"class {c}" for c in range(classes)),
        sensitive_features={name: np.asarray(of) for name, of in attributes.items()},
    )


def rates(labels, predicted, of, classes=2, counts=None):
    number = np.unique(of, return_inverse=True)[1]
    counts = np.ones((1, len(labels))) if counts is None else counts
    return by_group.rates(by_group.tally(labels, predicted, number, classes, counts))


def agrees(labels, predicted, of, classes):
    fairlearn = pytest.importorskip("fairlearn.metrics", reason='the extra "evaluate"')
    found = rates(labels, predicted, of, classes)
    for c in range(classes):
        arguments = {
            "sensitive_features": list(of),
            "y_true": labels == c,
            "y_pred": predicted == c,
        }
        assert by_group.parity_difference(found)[0, c] == pytest.approx(
            fairlearn.demographic_parity_difference(**arguments), abs=1e-12
        )
        assert by_group.parity_ratio(found)[0, c] == pytest.approx(
            fairlearn.demographic_parity_ratio(**arguments), abs=1e-12, nan_ok=True
        )
        assert by_group.odds_difference(found)[0, c] == pytest.approx(
            fairlearn.equalized_odds_difference(**arguments), abs=1e-12
        )
    frame = fairlearn.MetricFrame(
        metrics=lambda y_true, y_pred: np.mean(y_true == y_pred),
        y_true=labels,
        y_pred=predicted,
        sensitive_features=list(of),
    )
    assert found.accuracy[0] == pytest.approx(frame.by_group.to_numpy().astype(float))


@pytest.mark.parametrize(
    ("count", "classes", "many"), [(60, 2, 2), (200, 3, 4), (9, 2, 4), (25, 3, 6), (2, 2, 2)]
)
def test_the_gaps_are_fairlearns(count, classes, many):
    random = np.random.default_rng(count)
    labels, predicted = random.integers(classes, size=(2, count))
    agrees(labels, predicted, random.integers(many, size=count).astype(str), classes)


@pytest.mark.parametrize(
    ("labels", "predicted", "of"),
    [
        ([1, 0, 1, 0, 1], [1, 0, 0, 0, 1], list("aaaab")),  # a group with one sample
        ([1, 0, 1, 0, 0], [1, 0, 0, 1, 0], list("aaabb")),  # a group without positives
        ([1, 0, 1, 0], [1, 1, 0, 0], list("aaaa")),  # one group only
        ([1, 1, 0, 0], [0, 0, 0, 0], list("abab")),  # no sample is predicted as the class
        ([1, 1, 0, 0], [1, 1, 0, 0], list("aabb")),  # all right
        ([1, 1, 0, 0], [0, 0, 1, 1], list("abab")),  # all wrong
        ([1], [1], ["a"]),
    ],
)
def test_degenerate_gaps_are_fairlearns(labels, predicted, of):
    agrees(np.array(labels), np.array(predicted), np.array(of), 2)


def test_a_sample_drawn_twice_counts_twice():
    random = np.random.default_rng(1)
    labels, predicted, of = random.integers(3, size=(3, 50))
    counts = random.multinomial(50, np.full(50, 1 / 50), size=4).astype(float)
    drawn = rates(labels, predicted, of, 3, counts)
    for row, times in enumerate(counts.astype(int)):
        again = [np.repeat(values, times) for values in (labels, predicted, of)]
        alone = rates(*again, 3)
        for name in ("accuracy", "selection", "true_positive_rate", "false_positive_rate"):
            np.testing.assert_allclose(getattr(drawn, name)[row], getattr(alone, name)[0])
        np.testing.assert_allclose(
            by_class.recall(labels, predicted, 3, counts)[row],
            recall_score(again[0], again[1], labels=[0, 1, 2], average=None),
        )


def test_a_group_without_drawn_samples_has_no_rate():
    both = np.array([0, 1])
    found = rates(both, both, both, counts=np.array([[2.0, 0.0]]))
    assert np.isnan(found.accuracy[0, 1])
    assert by_group.spread(found.accuracy)[0] == 0


def biased(gap, count=2000, seed=0, of=None):
    """Predictions that are correct in 90 % of group a, and `gap` less often in group b."""
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=count) if of is None else of[0]
    group = np.where(np.arange(count) % 2, "b", "a") if of is None else of[1]
    right = random.random(count) < np.where(group == "a", 0.9, 0.9 - gap)
    return labels, group, np.where(right, labels, 1 - labels)


@pytest.mark.parametrize(
    ("teacher", "student", "outcome"),
    [
        (0.1, 0.3, "amplified"),
        (0.3, 0.1, "lessened"),
        (0.2, 0.2, "inherited"),
        (0.0, 0.3, "none"),
        (0.2, -0.08, "reversed"),
    ],
)
def test_the_inheritance_of_the_teachers_gap_is_classified(teacher, student, outcome):
    labels, group, model = biased(teacher)
    small = model if outcome == "inherited" else biased(student, seed=1, of=(labels, group))[2]
    found = evaluate(context(labels, small, model, sex=group), n_resamples=200)
    inherited = found.attributes[0].inherited[0]
    assert inherited.rate == "accuracy"
    assert inherited.outcome == outcome
    assert inherited.summary.startswith("Accuracy, ")
    gap = found.comparisons[0]
    accuracy = {g.name: g.student.value for g in found.attributes[0].groups}
    assert gap.student.value == pytest.approx(abs(accuracy["a"] - accuracy["b"]))
    assert gap.difference.value == pytest.approx(gap.student.value - gap.teacher.value)
    expected = {
        "amplified": "worse",
        "lessened": "better",
        "inherited": "non-inferior",
        "none": "worse",
    }
    assert gap.verdict == expected.get(outcome, gap.verdict)


def test_the_inheritance_of_few_samples_is_inconclusive():
    values = np.random.default_rng(0).normal(scale=0.3, size=(200, 2))
    teacher = values / 30 + np.array([0.9, 0.8])
    student = values + np.array([0.9, 0.8])
    found = inheritance("accuracy", ("a", "b"), student=student, teacher=teacher)
    assert found.outcome == "inconclusive"


def test_a_small_group_is_noted_and_excluded():
    labels, group, model = biased(0.1, count=400)
    group[:5] = "c"
    model[:5] = 1 - labels[:5]
    found = evaluate(context(labels, model, model, sex=group), n_resamples=50)
    by_name = {each.name: each for each in found.attributes[0].groups}
    assert not by_name["c"].judged
    assert by_name["a"].judged
    assert by_name["c"].student.value == 0
    assert any("c (5)" in note and "fewer than 20" in note for note in found.notes)
    assert found.comparisons[0].student.value < 0.3


def test_without_groups_only_classes_are_judged():
    labels, _, model = biased(0.1, count=200)
    found = evaluate(context(labels, model), n_resamples=50)
    assert [one.name for one in found.comparisons] == ["Recall of the worst class, class 1"]
    assert found.comparisons[0].verdict == "no reference"
    assert "No attribute" in found.notes[0]
    assert "equally frequent" in found.notes[1]


@pytest.mark.parametrize("of", [["a"] * 60, ["a"] * 50 + ["b"] * 10])
def test_one_group_alone_has_no_gap(of):
    labels = np.arange(60) % 2
    found = evaluate(context(labels, labels, labels, sex=of), n_resamples=20)
    assert found.attributes[0].gaps == ()
    assert any("fewer than two groups" in note for note in found.notes)


def test_a_class_that_is_never_predicted_has_no_ratio():
    labels = np.arange(80) % 2
    of = np.repeat(["a", "b"], 40)
    found = evaluate(context(labels, np.zeros(80, dtype=int), labels, sex=of), n_resamples=20)
    assert not any("ratio" in one.name for one in found.comparisons)
    assert any("ratio" in note for note in found.notes)
    assert found.attributes[0].gaps[0].parity_ratio == (None, 1.0)


def test_of_several_classes_the_worst_is_named():
    labels = np.tile(np.arange(3), 100)
    of = np.repeat(["a", "b"], 150)
    model = np.where((labels == 2) & (of == "b"), 0, labels)
    found = evaluate(context(labels, model, labels, classes=3, sex=of), n_resamples=50)
    names = [one.name for one in found.comparisons]
    assert "Equalised odds difference by sex, class 2" in names
    assert (
        found.comparisons[names.index("Equalised odds difference by sex, class 2")].student.value
        == 1
    )
    assert [gaps.name for gaps in found.attributes[0].gaps] == ["class 0", "class 1", "class 2"]
    only = evaluate(
        context(labels, model, labels, classes=3, sex=of), positive="class 1", n_resamples=20
    )
    assert "Demographic parity difference by sex, class 1" in [f.name for f in only.comparisons]


def test_rare_classes_are_those_of_the_validation_samples():
    labels = np.tile(np.arange(3), 100)
    validation = np.repeat([0, 1, 2], [100, 50, 10])
    model = np.where((labels == 2) & (np.arange(300) % 2 == 0), 0, labels)
    found = evaluate(
        context(labels, model, labels, classes=3, validation=validation), n_resamples=100
    )
    gap = found.comparisons[-1]
    assert gap.name == "Recall gap between frequent and rare classes"
    assert gap.student.value == pytest.approx(0.5)
    assert gap.teacher.value == 0
    assert gap.verdict == "worse"
    assert [each.name for each in found.classes] == ["class 2", "class 1", "class 0"]
    assert found.classes[0].frequency == pytest.approx(10 / 160)


def test_a_class_without_samples_is_named_and_has_no_recall():
    labels = np.repeat([0, 1], 30)
    found = evaluate(context(labels, labels, classes=3), n_resamples=20)
    assert found.classes[0].student is None
    assert any("class 2 (0)" in note for note in found.notes)
    assert not any("gap" in one.name for one in found.comparisons)


def test_one_sample_has_no_comparisons_and_no_error():
    found = evaluate(context([0], [1], [0], sex=["a"]), n_resamples=5)
    assert found.comparisons == ()
    assert Fairness.model_validate_json(found.model_dump_json()) == found
    json.loads(found.model_dump_json())


def test_invalid_groups_and_classes_are_refused():
    with pytest.raises(InputError, match=r"groups.sex: got '1 names'; allowed: 2, one"):
        evaluate(context([0, 1], [0, 1], sex=["a"]))
    with pytest.raises(InputError, match=r"fairness.positive: got 'class 7'"):
        evaluate(context([0, 1], [0, 1]), positive="class 7")


def test_equal_draws_do_not_make_a_gap_certain():
    same = np.zeros(101)
    few, many = (estimate(same, samples=count) for count in (20, 2000))
    assert few.interval.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert few.interval.low == -few.interval.high
    assert many.interval.high < 0.002
    assert estimate(same).interval.high == 0  # where no number of samples is known
