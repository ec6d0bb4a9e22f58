"""Independent labels of a sample, from columns of 0 and 1 to the served student."""

import json
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics
from sklearn.datasets import load_digits
from torch import nn

import limbeck
from limbeck.data.load import load
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError
from limbeck.objective import Objective, Term
from limbeck.pipeline.teachers import EnsembleModule
from limbeck.schemes import Offline
from limbeck.tasks import TASKS, ScoreTable
from limbeck.tasks.tabular_multilabel import TabularMultilabel
from limbeck.teachers import FrozenTeacher

LABELS = ("even", "large", "loop")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(1, 4), st.booleans())
def test_scores_are_sklearns(seed, rows, count, weighted):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, count))
    labels = random.integers(0, 2, (rows, count)).astype(np.float32)
    weights = random.uniform(0.1, 2, rows) if weighted else np.ones(rows)
    table = ScoreTable(TabularMultilabel.scores)
    for part in np.array_split(np.arange(rows), 2):
        if len(part):
            table.update(
                {"logits": logits[part]}, {"labels": labels[part]}, {"logits": weights[part]}
            )
    found, predicted = table.values(), logits > 0
    expected = {
        "macro_f1": metrics.f1_score(
            labels, predicted, average="macro", sample_weight=weights, zero_division=0
        )
        if count > 1
        else metrics.f1_score(
            labels[:, 0], predicted[:, 0], sample_weight=weights, zero_division=0
        ),
        "label_accuracy": np.average((predicted == labels).mean(1), weights=weights),
        "exact_match": np.average((predicted == labels).all(1), weights=weights),
    }
    assert found == pytest.approx(expected)


def batch_of(rows=6):
    generator = torch.Generator().manual_seed(0)
    return {
        "features": torch.randn(rows, 4, generator=generator, dtype=torch.float64),
        "labels": torch.randint(2, (rows, 3), generator=generator).double(),
    }


def test_the_loss_and_the_distillation_are_of_independent_labels():
    task, batch = TabularMultilabel(LABELS), batch_of()
    torch.manual_seed(0)
    teacher, student = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    objective = Objective([Term("task", weight=0.5), Term("binary_kl", temperature=2.0)])
    scheme = Offline(student, task, objective, teacher=FrozenTeacher(teacher, task), probe=batch)
    terms = scheme.step(batch, 0.0).terms
    z, t = student(batch["features"]), teacher(batch["features"])
    expected = F.binary_cross_entropy_with_logits(z, batch["labels"])
    torch.testing.assert_close(terms["task"].raw, expected.detach())
    p, q = (t / 2).sigmoid(), (z / 2).sigmoid()
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(terms["binary_kl"].raw, 4 * kl.mean().detach())


def test_an_exported_ensemble_is_the_mean_probability():
    task = TabularMultilabel(LABELS)
    members = [nn.Linear(4, 3) for _ in range(3)]
    x = torch.randn(5, 4)
    found = EnsembleModule(members, task)(x).sigmoid()
    expected = torch.stack([member(x).sigmoid() for member in members]).mean(0)
    torch.testing.assert_close(found, expected)


# -- data and a run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Scanned digits, with three properties of the digit as labels."""
    found, folder = load_digits(), tmp_path_factory.mktemp("digits")
    images = [Image.fromarray((one * 15).astype(np.uint8)) for one in found.images[:600]]
    digit = found.target[:600]
    rows = {
        "image": images,
        "even": (digit % 2 == 0).astype(int),
        "large": (digit > 4).astype(int),
        "loop": np.isin(digit, (0, 6, 8, 9)).astype(int),
        "digit": digit,
    }
    datasets.Dataset.from_dict(rows).to_parquet(folder / "digits.parquet")
    images[0].save(folder / "zero.png")
    return folder


def spec_of(folder, targets=LABELS):
    files = {"train": str(folder / "digits.parquet")}
    return DataSpec(source="parquet", files=files, targets=targets)


def test_labels_come_from_columns_of_zeros_and_ones(digits, tmp_path):
    data = load(spec_of(digits), workdir=tmp_path)
    task = TASKS.load("image_multilabel").of(data)
    assert task.labels == LABELS
    assert data.train.__getitems__([0, 1])["labels"].shape == (2, 3)
    other = load(spec_of(digits, targets=("even", "digit")), workdir=tmp_path)
    with pytest.raises(
        InputError, match=r"data\.targets: got 'digit'; allowed: columns of 0 and 1"
    ):
        TASKS.load("image_multilabel").of(other)


@pytest.mark.slow
def test_a_run_ships_a_student_of_independent_labels(digits, tmp_path):
    model = {"source": "limbeck", "name": "digits_cnn"}
    recipe = {
        "name": "labels",
        "task": "image_multilabel",
        "data": spec_of(digits).model_dump(mode="json", exclude_defaults=True),
        "teacher": [{**model, "width": 16}, {**model, "width": 16}],
        "student": {**model, "width": 8},
        "budget": {"drop": {"macro_f1": 0.5}},
        "threads": 1,
        "stages": [
            {"train_teacher": {"epochs": 6}},
            {
                "distill": {
                    "epochs": 6,
                    "objective": [{"task": {}}, {"binary_kl": {"temperature": 2.0}}],
                }
            },
            {"export": {}},
        ],
    }
    result = limbeck.run(limbeck.Recipe.model_validate(recipe), out=tmp_path / "run")
    assert result.metric.name == "macro_f1"
    assert result.shipped.score.mean > 0.8
    assert [one.name for one in result.budget] == ["drop"]
    student = limbeck.load_student(tmp_path / "run")
    found = student.predict(str(digits / "zero.png")).values
    assert list(found) == list(LABELS)
    assert all(0 <= value <= 1 for value in found.values())
    assert found["even"] > 0.5 > found["large"]
    code = (tmp_path / "run" / "student" / "README.md").read_text().split("```python\n")[1]
    (tmp_path / "run" / "student" / "image.png").write_bytes((digits / "zero.png").read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", code.split("```")[0]],
        cwd=tmp_path / "run" / "student",
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    [shown] = json.loads(done.stdout.replace("'", '"'))
    assert shown == pytest.approx(found, abs=1e-5)
