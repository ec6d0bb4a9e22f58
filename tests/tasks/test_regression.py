"""Regression of one or several targets, from the columns of a table to the served student."""

import json

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from torch import nn

import limbeck
from limbeck import losses
from limbeck.data.labels.values import read_values
from limbeck.data.load import load
from limbeck.data.preprocess import load as load_preprocess
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError
from limbeck.evaluate.metrics import score_value
from limbeck.objective import Objective, Term, methods
from limbeck.pipeline.stages.evaluate import Evaluate
from limbeck.schemes import Offline
from limbeck.tasks import TASKS, ScoreTable
from limbeck.tasks.tabular_regression import TabularRegression
from limbeck.teachers import FrozenTeacher

COLUMNS = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]


def spec(**more):
    table = {"table": {"numeric": COLUMNS}, "targets": ["target"], **more}
    return DataSpec(source="sklearn", name="diabetes", **table)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load(spec(), workdir=tmp_path_factory.mktemp("data"))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 60), st.integers(1, 3), st.booleans())
def test_scores_are_sklearns(seed, rows, targets, weighted):
    random = np.random.default_rng(seed)
    labels = random.normal(50, 9, (rows, targets))
    values = labels + random.normal(0, 4, (rows, targets))
    weights = random.uniform(0.1, 2, rows) if weighted else np.ones(rows)
    table = ScoreTable(TabularRegression.scores)
    for part in np.array_split(np.arange(rows), 3):
        table.update({"values": values[part]}, {"labels": labels[part]}, {"values": weights[part]})
    expected = {
        "r2": metrics.r2_score,
        "rmse": metrics.root_mean_squared_error,
        "mae": metrics.mean_absolute_error,
    }
    found = table.values()
    assert list(found) == list(expected)
    for name, function in expected.items():
        assert found[name] == pytest.approx(function(labels, values, sample_weight=weights))
    for score in TabularRegression.scores:
        interval = score_value(table, score).interval
        assert interval.low <= found[score.metric.name] <= interval.high


def test_targets_are_split_and_scaled_by_the_training_rows(data):
    assert data.classes == ()
    assert data.outputs == ("target",)
    labels = data.train.labels.double().numpy()
    [target] = data.targets
    assert target.mean == pytest.approx(labels.mean())
    assert target.std == pytest.approx(labels.std())
    assert data.train.__getitems__([3, 5])["labels"].shape == (2, 1)
    # Stratified: the deciles of the target have equal shares in the test split.
    edges = np.quantile(labels, [0.5])
    share = float((data.test.labels.numpy() < edges).mean())
    assert abs(share - 0.5) < 0.07


def test_an_export_is_in_the_targets_units_and_training_is_standardised(data):
    task = TASKS.load("tabular_regression").of(data)
    model = nn.Linear(10, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    batch = data.train.__getitems__(list(range(len(data.train))))
    outputs = task.outputs(model, batch)["values"]
    torch.testing.assert_close(outputs, torch.full_like(outputs, data.targets[0].mean))
    loss = task.loss(task.respond(model, batch))["values"]
    assert loss.mean().item() == pytest.approx(1.0, abs=1e-4)


def test_a_student_learns_the_values_of_its_teacher(data):
    task = TASKS.load("tabular_regression").of(data)
    torch.manual_seed(0)
    teacher, student = nn.Linear(10, 1), nn.Linear(10, 1)
    batch = data.train.__getitems__(list(range(64)))
    objective = Objective([Term("logit_mse")])
    scheme = Offline(student, task, objective, teacher=FrozenTeacher(teacher, task), probe=batch)
    optimizer = torch.optim.LBFGS(scheme.trainable(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        total = scheme.step(batch, 0.0).total
        total.backward()
        return total

    optimizer.step(closure)
    assert scheme.step(batch, 0.0).total < 1e-6


@pytest.mark.parametrize("method", ["hinton", "dkd"])
def test_methods_for_classes_are_refused(data, method):
    task, batch = TASKS.load("tabular_regression").of(data), data.train.__getitems__([0, 1])
    teacher = FrozenTeacher(nn.Linear(10, 1), task)
    objective = Objective(getattr(methods, method)())
    with pytest.raises(InputError, match="allowed: an output of kind categorical"):
        Offline(nn.Linear(10, 1), task, objective, teacher=teacher, probe=batch)


def test_a_task_of_classes_refuses_numeric_targets_and_the_reverse(data, tmp_path):
    with pytest.raises(InputError, match="task: got 'numeric targets: target'"):
        TASKS.load("tabular_classification").of(data)
    classes = load(DataSpec(source="sklearn", name="digits"), workdir=tmp_path)
    with pytest.raises(InputError, match=r"data\.targets: field required|data\.targets: got None"):
        TASKS.load("tabular_regression").of(classes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([1.0, None, 2.0], "no number in 1 rows, the first is row 1"),
        (["1", "2", "many"], "'many' in row 2"),
        ([3, 3, 3], "3.0 in every row"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(rows, message):
    train = datasets.Dataset.from_dict({"price": rows})
    with pytest.raises(InputError, match=message):
        read_values({"train": train}, ("price",))


def test_a_target_among_the_features_is_refused():
    with pytest.raises(ValueError, match="without the label's"):
        spec(table={"numeric": [*COLUMNS, "target"]})


def test_preprocessing_keeps_the_scale_of_the_targets(data, tmp_path):
    data.preprocess.save(tmp_path)
    assert load_preprocess(tmp_path) == data.preprocess
    [written] = json.loads((tmp_path / "preprocess.json").read_text())["targets"]
    assert written["name"] == "target"


def test_only_evaluations_of_any_task_run_without_classes(data):
    assert list(Evaluate().selected(TASKS.load("tabular_regression").of(data))) == [
        "cost",
        "diagnosis",
    ]
    assert len(Evaluate().selected(TASKS.load("tabular_classification")(("a", "b")))) > 1


def test_every_loss_of_classes_is_a_loss():
    assert set(losses.__all__) >= set(losses.OUTPUT_KINDS)


@pytest.mark.slow
def test_targets_of_different_sizes_survive_int8(tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 4))
    rows = {f"x{place}": column for place, column in enumerate(x.T)}
    rows |= {"price": 1e6 * (x @ [1, 2, 0, 1]) + 3e6, "rent": 1e-2 * (x @ [0, 1, 1, 0]) + 5}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "homes.parquet")
    mlp = {"source": "limbeck", "name": "tabular_mlp", "width": 16, "depth": 1}
    recipe = {
        "name": "homes",
        "task": "tabular_regression",
        "data": {
            "source": "parquet",
            "files": {"train": str(tmp_path / "homes.parquet")},
            "targets": ["price", "rent"],
            "table": {"numeric": ["x0", "x1", "x2", "x3"]},
        },
        "student": mlp,
        "threads": 1,
        "stages": [
            {"distill": {"epochs": 30, "learning_rate": 0.01, "objective": ["task"]}},
            {"quantize": {"method": "int8_static"}},
            {"export": {}},
        ],
    }
    result = limbeck.run(limbeck.Recipe.model_validate(recipe), out=tmp_path / "run")
    floats, shipped = result.chain[0].score.mean, result.shipped.score.mean
    assert floats > 0.95
    assert shipped > floats - 0.02
