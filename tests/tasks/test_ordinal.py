"""Classes in an order: scores, loss, and the check of the order.

A whole run of them is in `tests/export/test_early_exits.py`.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from torch import nn

from limbeck import losses
from limbeck.errors import InputError
from limbeck.objective import Objective, Term
from limbeck.schemes import Offline
from limbeck.tasks import TASKS, ScoreTable
from limbeck.tasks._ordinal import numbers_in
from limbeck.tasks.tabular_ordinal import TabularOrdinal
from limbeck.teachers import FrozenTeacher
from limbeck.testing import check_task

GRADES = ("low", "middle", "high")
VARIANTS = ("image_ordinal", "tabular_ordinal", "text_ordinal")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(2, 7), st.booleans())
def test_scores_are_those_of_sklearn_and_numpy(seed, rows, classes, weighted):
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(rows, classes)), random.integers(0, classes, rows)
    labels[0], logits[0] = 0, np.eye(classes)[-1] * 9  # at least two ranks in use
    weights = random.uniform(0.1, 2, rows) if weighted else np.ones(rows)
    table = ScoreTable(TabularOrdinal.scores)
    for part in np.array_split(np.arange(rows), 3):
        if len(part):
            table.update(
                {"logits": logits[part]}, {"labels": labels[part]}, {"logits": weights[part]}
            )
    predicted = logits.argmax(1)
    distance = np.abs(predicted - labels)
    expected = {
        "quadratic_kappa": metrics.cohen_kappa_score(
            labels, predicted, weights="quadratic", sample_weight=weights, labels=range(classes)
        ),
        "rank_mae": np.average(distance, weights=weights),
        "within_one": np.average(distance <= 1, weights=weights),
        "accuracy": metrics.accuracy_score(labels, predicted, sample_weight=weights),
    }
    assert table.values() == pytest.approx(expected, abs=1e-9)


def test_a_resampled_kappa_is_that_of_the_drawn_samples():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(30, 4)), random.integers(0, 4, 30)
    score = TabularOrdinal.scores[0]
    parts = score.parts({"logits": logits}, {"labels": labels}, {"logits": np.ones(30)})
    counts = random.integers(0, 4, (5, 30)).astype(float)
    expected = [
        metrics.cohen_kappa_score(
            labels, logits.argmax(1), weights="quadratic", sample_weight=one, labels=range(4)
        )
        for one in counts
    ]
    np.testing.assert_allclose(score.value(parts, counts), expected, atol=1e-12)
    same = score.parts(
        {"logits": np.eye(2)[[0, 0]]}, {"labels": np.zeros(2)}, {"logits": np.ones(2)}
    )
    assert np.isnan(score.value(same, np.ones((1, 2)))).all()  # as in sklearn


def batch_of(rows=6):
    generator = torch.Generator().manual_seed(0)
    return {
        "features": torch.randn(rows, 4, generator=generator, dtype=torch.float64),
        "labels": torch.randint(3, (rows,), generator=generator),
    }


def test_the_loss_is_the_binary_cross_entropy_of_each_threshold():
    batch, model = batch_of(), nn.Linear(4, 3).double()
    task = TabularOrdinal(GRADES)
    above = model(batch["features"]).softmax(1).flip(1).cumsum(1).flip(1)[:, 1:]
    expected = F.binary_cross_entropy(
        above, (batch["labels"][:, None] > torch.arange(2)).double(), reduction="none"
    ).sum(1)
    torch.testing.assert_close(task.loss(task.respond(model, batch))["logits"], expected)
    check_task(task, model, batch)


def test_of_two_classes_the_loss_is_cross_entropy():
    logits, labels = torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])
    found = losses.cumulative_cross_entropy(logits, labels)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, reduction="none"))


def test_a_distant_class_costs_more_than_a_neighbour():
    near, far = torch.tensor([[0.0, 3.0, 0.0]]), torch.tensor([[0.0, 0.0, 3.0]])
    label = torch.tensor([0])
    assert torch.equal(losses.cross_entropy(near, label), losses.cross_entropy(far, label))
    one, two = (losses.cumulative_cross_entropy(logits, label) for logits in (near, far))
    assert one < two


def test_an_ordinary_classifier_is_its_teacher():
    task, batch = TabularOrdinal(GRADES), batch_of()
    teacher = FrozenTeacher(
        nn.Linear(4, 3).double(), TASKS.load("tabular_classification")(classes=GRADES)
    )
    objective = Objective([Term("task"), Term("soft_target_kl", temperature=2.0)])
    student = nn.Linear(4, 3).double()
    scheme = Offline(student, task, objective, teacher=teacher, probe=batch)
    terms = scheme.step(batch, 0.0).terms
    logits = student(batch["features"])
    expected = losses.cumulative_cross_entropy(logits, batch["labels"]).mean()
    torch.testing.assert_close(terms["task"].raw, expected.detach())


def described(classes, *, targets=(), order_stated=True, mixes_labels=False):
    return SimpleNamespace(
        classes=classes, targets=targets, order_stated=order_stated, mixes_labels=mixes_labels
    )


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    ("classes", "stated", "message"),
    [
        (("1", "10", "2"), True, r"data\.classes: got '1, 10, 2'.*\[1, 2, 10\]"),
        (("1 star", "10 stars", "2 stars"), False, r"\[1 star, 2 stars, 10 stars\]"),
        (
            ("high", "low", "middle"),
            False,
            r"data\.classes.*from the lowest to the highest, of: hi",
        ),
        ((), True, r"task: got 'numeric targets: price'"),
    ],
)
def test_an_unknown_or_wrong_order_is_refused(name, classes, stated, message):
    targets = (SimpleNamespace(name="price"),)
    data = described(classes, targets=targets, order_stated=stated)
    with pytest.raises(InputError, match=message):
        TASKS.load(name).of(data)


def test_mixed_labels_are_refused_by_the_keys_that_mix_them():
    data = described(GRADES, mixes_labels=True)
    with pytest.raises(
        InputError, match=r"data\.augment: .*mixed.*for tabular_ordinal\. Leave out"
    ):
        TabularOrdinal.of(data)


def test_a_stated_order_and_numbers_are_accepted():
    for classes, stated in ((GRADES, True), (("0", "1", "2"), False), (("5", "3", "1"), False)):
        data = described(classes, order_stated=stated)
        assert TabularOrdinal.of(data).classes == classes
    assert numbers_in(["1-2", "3-4"]) is None
    assert numbers_in(["grade 1", "level 1"]) is None
