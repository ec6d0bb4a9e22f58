"""Model extraction of known victims: attackers, defences and detection against references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss

from limbeck.errors import InputError
from limbeck.evaluate.context import EvaluatedModel, EvaluationContext, Normalization
from limbeck.evaluate.model_extraction import ModelExtraction, attacker, evaluate
from limbeck.evaluate.model_extraction.attacker import Numbers, QueryResult, Tokens
from limbeck.evaluate.model_extraction.detector import Detector
from limbeck.evaluate.model_extraction.runs import output_perturbations, utility

CLASSES = ("zero", "one", "two", "three")


class Linear:
    """A linear model."""

    def __init__(self, seed=0, scale=2.0):
        self._weight = scale * np.random.default_rng(seed).normal(size=(12, 4))

    def predict(self, batch):
        values = np.asarray(batch["image"])
        return {"logits": (values.reshape(len(values), -1) @ self._weight).astype(np.float32)}


class Words:
    """Counts the tokens of each remainder by four, but for first, last and padding."""

    def predict(self, batch):
        ids = np.asarray(batch["input_ids"])
        return {
            "logits": np.stack([((ids % 4 == c) & (ids > 2)).sum(axis=1) for c in range(4)], axis=1)
        }


def context(student, teacher=None, *, count=240, inputs=None, pixels=None):
    random = np.random.default_rng(0)
    inputs = inputs or {"image": random.normal(size=(count, 3, 2, 2)).astype(np.float32)}
    labels = np.asarray(student.predict(inputs)["logits"]).argmax(axis=1)
    rows = np.arange(len(labels))

    def batches(first):
        def go():
            for part in np.array_split(rows[first::2], 2):
                batch = {name: values[part] for name, values in inputs.items()}
                yield batch | {"labels": labels[part], "index": part}

        return go

    return EvaluationContext(
        student=EvaluatedModel("student", student),
        teacher=None if teacher is None else EvaluatedModel("teacher", teacher),
        batches=batches(0),
        validation=batches(1),
        classes=CLASSES,
        normalization=pixels,
    )


@pytest.fixture(scope="module")
def found():
    return evaluate(
        context(Linear(), Linear(1), pixels=Normalization((0.5,) * 3, (0.25,) * 3)),
        budgets=(5, 100),
        n_resamples=100,
    )


def agreement(found, **which):
    (one,) = [
        score for score in found.scores
        if all(getattr(score, name) == value for name, value in which.items())
    ]  # fmt: skip
    return one.agreement.value


def test_a_simple_victim_is_extracted_and_more_queries_extract_more(found):
    few = agreement(found, strategy="random", response_format="probabilities", queries=5)
    many = agreement(found, strategy="random", response_format="probabilities", queries=100)
    assert found.majority_baseline < many
    assert few < many
    assert many > 0.8
    assert len(found.scores) == 2 * (4 + 2)
    for score in found.scores:
        low, high = score.agreement.interval.low, score.agreement.interval.high
        assert low <= score.agreement.value <= high


def test_comparisons_contain_student_and_teacher(found):
    fidelities = [one for one in found.comparisons if "queries" in one.name]
    assert len(fidelities) == 3
    for one in fidelities:
        assert one.direction == "lower"
        assert one.difference.value == pytest.approx(one.student.value - one.teacher.value)
    assert found.comparisons[-1].name.startswith("Attacker detection AUROC")
    assert ModelExtraction.model_validate_json(found.model_dump_json()) == found


def test_defences_are_compared_with_the_benign_users_accuracy(found):
    by_name = {defence.name: defence for defence in found.defences}
    none, label = by_name["none"], by_name["the label alone"]
    # The labels are the victim's own, so every unchanged response to a benign user is correct.
    assert none.accuracy == label.accuracy == 1
    assert label.nll == pytest.approx(0)
    assert by_name["noise of 0.3"].accuracy < 1
    assert by_name["noise of 0.3"].nll > none.nll
    assert label.agreement.value == agreement(
        found, strategy="random", response_format="hard_label", queries=100
    )
    # Of two attackers the better counts, one of which learns from labels alone.
    assert none.agreement.value >= label.agreement.value
    cap = by_name["no more than 5 queries"]
    assert (cap.queries, cap.nll) == (5, none.nll)
    assert cap.agreement.value < none.agreement.value


def test_the_detection_of_random_queries_is_chance_and_its_curve_ascends(found):
    auc = {each.strategy: each.auc.value for each in found.detection}
    assert set(auc) == set(attacker.STRATEGIES)
    assert 0.3 < auc["random"] < 0.7
    for each in found.detection:
        assert (
            each.false_positive_rate[0] == each.true_positive_rate[0] == 0
            or each.true_positive_rate[0] > 0
        )
        assert list(each.false_positive_rate) == sorted(each.false_positive_rate)
        assert list(each.true_positive_rate) == sorted(each.true_positive_rate)
        assert 0 <= each.flagged_benign < 0.3


def test_the_price_is_that_of_the_fewest_queries_that_reach_a_level(found):
    for cost in found.costs:
        reached = [
            score.queries
            for score in found.scores
            if score.response_format == cost.response_format
            and score.agreement.value >= cost.agreement
        ]
        assert cost.queries == min(reached, default=None)
        assert cost.price == (cost.queries and cost.queries * found.price)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(attacker, "STEPS", 40)


@pytest.mark.usefixtures("quick")
def test_the_same_seed_extracts_the_same():
    results = [
        evaluate(context(Linear(), count=40), budgets=(6, 12), n_resamples=10).model_dump_json()
        for _ in range(2)
    ]
    assert results[0] == results[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(2, 6))
def test_perturbed_outputs_are_distributions(seed, count, classes):
    random = np.random.default_rng(seed)
    true = random.dirichlet(np.full(classes, 0.3), size=count)
    for change in output_perturbations(classes, seed=0):
        perturbed = change.apply(true)
        assert perturbed.shape == true.shape
        assert (perturbed >= 0).all()
        np.testing.assert_allclose(perturbed.sum(axis=1), 1)
    np.testing.assert_allclose(attacker.top_k(true, classes), true)
    assert (attacker.top_1(true).max(axis=1) >= true.max(axis=1) - 1e-12).all()
    assert (attacker.label(true).argmax(axis=1) == true.argmax(axis=1)).all()


def test_degenerate_outputs_stay_distributions():
    certain = np.array([[0.0, 1.0, 0.0]])
    even = np.full((1, 30), 1 / 30)
    assert attacker.rounded(even, 1).tolist() == even.tolist()
    assert attacker.top_1(certain).tolist() == certain.tolist()
    assert attacker.label(np.array([[0.5, 0.5]])).tolist() == [[1, 0]]


def test_utility_is_scikit_learns():
    random = np.random.default_rng(0)
    p, labels = random.dirichlet(np.ones(4), size=50), random.integers(4, size=50)
    accuracy, nll = utility(p, labels)
    assert accuracy == accuracy_score(labels, p.argmax(axis=1))
    assert nll == pytest.approx(log_loss(labels, p, labels=range(4)))
    assert utility(np.array([[1.0, 0.0]]), np.array([1]))[1] == pytest.approx(-np.log(1e-6))


def test_a_detector_scores_by_distance_and_entropy():
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(3), size=60)
    benign = QueryResult(random.normal(size=(60, 4)).astype(np.float32), p)
    far = QueryResult(benign.features + 30, p)
    detector = Detector(benign)
    assert (detector.scores(far) > detector.threshold).all()
    # Equal features and outputs without entropy must not divide by zero.
    same = QueryResult(np.ones((10, 4), np.float32), np.eye(3)[[0] * 10])
    assert np.isfinite(Detector(same).scores(same)).all()
    assert np.isfinite(Detector(same).scores(far)).all()


def test_a_surrogate_learns_a_linear_victim_and_accepts_one_query():
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 5)).astype(np.float32)
    responses = np.eye(3)[(features @ random.normal(size=(5, 3))).argmax(axis=1)]
    state = torch.get_rng_state()
    learned = attacker.train(features, responses, seed=0)
    assert (learned(features).argmax(axis=1) == responses.argmax(axis=1)).mean() > 0.9
    assert torch.equal(torch.get_rng_state(), state)
    alone = attacker.train(features[:1], responses[:1], seed=0)
    assert alone(features).argmax(axis=1).tolist() == [int(responses[0].argmax())] * 200


def test_an_active_attacker_queries_the_least_certain():
    random = np.random.default_rng(0)
    features = np.sort(random.normal(size=(100, 1)), axis=0)[random.permutation(100)]
    queried = QueryResult(features.astype(np.float32), np.eye(2)[(features[:, 0] > 0).astype(int)])
    first, second = attacker.extract(queried, attacker.full, (20, 40), queried, active=True, seed=0)
    assert set(first.queries) <= set(second.queries)
    assert len(set(second.queries.tolist())) == 40
    chosen = np.setdiff1d(second.queries, first.queries)
    left = np.setdiff1d(np.arange(100), second.queries)
    assert np.abs(features[chosen]).mean() < np.abs(features[left]).mean()


def test_queries_are_of_the_strategys_kind():
    pool = {"image": np.random.default_rng(0).normal(size=(30, 1, 2, 2)).astype(np.float32)}
    pixels = Numbers("image", Normalization((0.5,), (0.25,)))
    noise = attacker.queries("noise", pixels, pool, 200, seed=0)["image"]
    assert -2 <= noise.min() < -1.9
    assert 1.9 < noise.max() <= 2
    random = attacker.queries("random", pixels, pool, 20, seed=0)["image"]
    own = {image.tobytes() for image in pool["image"]}
    assert {image.tobytes() for image in random} < own
    assert len(attacker.queries("random", pixels, pool, 50, seed=0)["image"]) == 50
    assert len(attacker.queries("uncertain", pixels, pool, 50, seed=0)["image"]) == 100
    mixed = attacker.queries("mixed", pixels, pool, 50, seed=0)["image"]
    assert all(image.tobytes() in own for image in mixed[: attacker.FEW])
    assert sum(image.tobytes() in own for image in mixed) < attacker.FEW + 10
    table = Numbers("row", None).noise({"row": np.array([[0.0, 5.0], [1.0, 5.0]])}, 9,
                                       np.random.default_rng(0))["row"]  # fmt: skip
    assert (table[:, 1] == 5).all()
    large = Numbers("image", None).features({"image": np.ones((2, 3, 64, 64), np.float32)})
    assert large.shape == (2, 3 * 18 * 18)
    assert (large == 1).all()


def texts(count=120):
    random = np.random.default_rng(0)
    length = random.integers(4, 9, size=count)
    mask = (np.arange(9) < length[:, None]).astype(np.int64)
    ids = random.integers(3, 40, size=(count, 9)) * mask
    ids[:, 0] = 1
    ids[np.arange(count), length - 1] = 2
    return {"input_ids": ids, "attention_mask": mask}


def test_texts_keep_their_first_and_last_token():
    pool, random = texts(), np.random.default_rng(0)
    for drawn in (Tokens().mixed(pool, 50, random), Tokens().noise(pool, 50, random)):
        ids, mask = drawn["input_ids"], drawn["attention_mask"]
        assert (ids[:, 0] == 1).all()
        assert (ids[np.arange(50), mask.sum(axis=1) - 1] == 2).all()
        assert (ids[mask == 0] == 0).all()
        assert (np.diff(mask, axis=1) <= 0).all()
    bag = Tokens().features({"input_ids": np.array([[1, 1030, 6, 0]]),
                             "attention_mask": np.array([[1, 1, 1, 0]])})  # fmt: skip
    assert bag[0, 6] == pytest.approx(np.log(3))
    assert bag[0, 0] == 0


@pytest.mark.usefixtures("quick")
def test_texts_are_extracted_by_their_tokens():
    found = evaluate(context(Words(), inputs=texts(400)), budgets=(100,), n_resamples=10)
    assert (
        agreement(found, strategy="random", response_format="probabilities", queries=100)
        > found.majority_baseline
    )
    assert found.comparisons[0].verdict == "no reference"


@pytest.mark.usefixtures("quick")
def test_notes_state_what_could_not_be_measured():
    found = evaluate(context(Linear(), count=12), budgets=(4, 20), n_resamples=10)
    assert found.detection == ()
    assert any("no detector can be fitted" in note for note in found.notes)
    assert any("mixtures" in note for note in found.notes)

    class Both(Linear):
        def predict(self, batch):
            return super().predict({"image": batch["image"]})

    pair = {name: np.zeros((8, 3, 2, 2), np.float32) for name in ("image", "other")}
    assert "neither texts" in evaluate(context(Both(), inputs=pair)).notes[0]


@pytest.mark.parametrize("budgets", [(), (0, 5), (5, 5), (9, 3)])
def test_budgets_that_do_not_ascend_are_refused(budgets):
    with pytest.raises(InputError, match=r"model_extraction\.budgets: got .*; allowed: ascending"):
        evaluate(context(Linear(), count=8), budgets=budgets)
