"""Rows without a label, and rows with weights: in the data, the task, and every mean."""

import itertools

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck.data.load import load
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError
from limbeck.objective import Objective, Term
from limbeck.schemes import Offline
from limbeck.tasks import mean_loss
from limbeck.tasks.tabular_classification import TabularClassification
from limbeck.teachers import FrozenTeacher

TASK = TabularClassification(classes=("a", "b", "c"))
TERMS = [
    Term("task", weight=0.3),
    Term("soft_target_kl", temperature=2.0),
    Term("dkd", temperature=2.0, weight=0.5),
]


def batch_of(count=12):
    generator = torch.Generator().manual_seed(0)
    return {
        "features": torch.randn(count, 5, generator=generator, dtype=torch.float64),
        "labels": torch.tensor([0, -100, 2, 1, -100, -100] * (count // 6)),
        "labelled": torch.tensor([True, False, True, True, False, False] * (count // 6)),
        "weight": torch.rand(count, generator=generator, dtype=torch.float64),
    }


def scheme():
    torch.manual_seed(1)
    teacher, student = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()
    probe = {name: one[:4] for name, one in batch_of().items()}
    return Offline(
        student, TASK, Objective(TERMS), teacher=FrozenTeacher(teacher, TASK), probe=probe
    )


def test_terms_of_labels_are_means_over_rows_with_one_and_others_over_all():
    subject, batch = scheme(), batch_of()
    terms = subject.step(batch, 0.0).terms
    logits = subject.student(batch["features"]).detach()
    weights, known = batch["weight"], batch["labelled"]
    each = F.cross_entropy(logits[known], batch["labels"][known], reduction="none")
    expected = (each * weights[known]).sum() / weights[known].sum()
    torch.testing.assert_close(terms["task"].raw, expected)
    torch.testing.assert_close(mean_loss(TASK, TASK.respond(subject.student, batch)), expected)
    part = {name: one[known] for name, one in batch.items() if name != "labelled"}
    torch.testing.assert_close(terms["dkd"].raw, subject.step(part, 0.0).terms["dkd"].raw)
    everything = {name: one for name, one in batch.items() if name not in ("labelled", "labels")}
    everything["labels"] = torch.zeros(12, dtype=torch.long)
    expected = subject.step(everything, 0.0).terms["soft_target_kl"].raw
    torch.testing.assert_close(terms["soft_target_kl"].raw, expected)


@pytest.mark.parametrize("cuts", [(0, 1, 12), (0, 4, 6, 12)])
def test_the_cut_of_a_step_changes_no_gradient(cuts):
    subject, batch = scheme(), batch_of()
    whole = torch.autograd.grad(subject.step(batch, 0.0).total, list(subject.trainable()))
    parts = [{name: one[a:b] for name, one in batch.items()} for a, b in itertools.pairwise(cuts)]
    sums = [subject.total_weights(part) for part in parts]
    total = {name: sum(one[name] for one in sums) for name in sums[0]}
    assert set(total) == {"logits", "logits/labels"}
    losses = sum(subject.step(part, 0.0, total).total for part in parts)
    torch.testing.assert_close(torch.autograd.grad(losses, list(subject.trainable())), whole)


def test_a_batch_without_any_label_trains_under_the_teacher_alone():
    subject, batch = scheme(), batch_of()
    batch["labelled"][:] = False
    terms = subject.step(batch, 0.0).terms
    assert terms["task"].raw == 0
    assert terms["soft_target_kl"].raw > 0


# -- data -----------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path):
    def written(name, labels, **more):
        random = np.random.default_rng(len(labels))
        rows = {"x": random.normal(size=len(labels)), "label": labels, **more}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{name}.parquet")
        return str(tmp_path / f"{name}.parquet")

    return written


def read(tmp_path, files, **more):
    columns = more.pop("columns", {})
    spec = DataSpec(
        source="parquet", files=files, table={"numeric": ["x"]}, columns=columns, **more
    )
    return load(spec, workdir=tmp_path)


def test_rows_without_a_label_stay_in_training(write, tmp_path):
    labels = [*["yes", "no"] * 30, *[None] * 40]
    files = {"train": write("train", labels)}
    with pytest.raises(InputError, match="no label in 40 of 100 rows"):
        read(tmp_path, files, classes=["no", "yes"])
    data = read(tmp_path, files, classes=["no", "yes"], unlabelled=True)
    assert len(data.train) + len(data.validation) + len(data.test) == 100
    batch = data.train.__getitems__(list(range(len(data.train))))
    assert int((~batch["labelled"]).sum()) == 40
    assert torch.equal(batch["labels"] == -100, ~batch["labelled"])
    assert "labelled" not in data.validation.__getitems__([0])
    assert any("40 of 8" in note and "have no label" in note for note in data.facts.notes)


def test_a_split_without_any_label_is_refused(write, tmp_path):
    files = {"train": write("train", [None] * 30, other=["a"] * 30)}
    with pytest.raises(InputError, match="no label in 30 rows"):
        read(tmp_path, files, classes=["no", "yes"], unlabelled=True)


def test_only_the_label_of_minus_one_hundred_excludes_an_element():
    objective = Objective([Term("task")])
    logits = torch.randn(3, 4)
    found = objective.compute(logits, labels=torch.tensor([1, -100, 2])).total
    expected = F.cross_entropy(logits[[0, 2]], torch.tensor([1, 2]))
    torch.testing.assert_close(found, expected)
    with pytest.raises(InputError, match="-1"):
        objective.compute(logits, labels=torch.tensor([1, -1, 2]))


def test_weights_of_rows_reach_the_task(write, tmp_path):
    weights = [float(row % 5) for row in range(60)]
    files = {"train": write("train", ["yes", "no"] * 30, importance=weights)}
    data = read(tmp_path, files, classes=["no", "yes"], columns={"weight": "importance"})
    batch = data.train.__getitems__(list(range(len(data.train))))
    assert set(batch["weight"].tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert torch.equal(TASK.weights(batch)["logits"], batch["weight"])
    assert "weight" in data.test.__getitems__([0])


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0, -1.0] * 30, "-1.0 in row 1"), ([0.0] * 60, "0 in every row")],
)
def test_weights_below_zero_are_refused(write, tmp_path, weights, message):
    files = {"train": write("train", ["yes", "no"] * 30, w=weights)}
    with pytest.raises(InputError, match=message):
        read(tmp_path, files, classes=["no", "yes"], columns={"weight": "w"})
