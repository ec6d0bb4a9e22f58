"""Quantile forecasts: elements are the steps of each target."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_pinball_loss
from torch import nn
from torch.utils.data import TensorDataset

import limbeck
from limbeck.errors import InputError
from limbeck.evaluate.metrics import score_value
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor, TorchPredictor
from limbeck.models.nets.series_mlp import series_mlp
from limbeck.objective import Objective, Term
from limbeck.tasks import ScoreTable, total_weights
from limbeck.tasks.series_forecasting import SeriesForecasting, pinball_loss
from limbeck.teachers import FrozenTeacher

LEVELS = (0.1, 0.5, 0.9)
MEAN, STD = torch.tensor([10.0, -3.0]), torch.tensor([2.0, 5.0])
TASK = SeriesForecasting(("load", "oil"), horizon=4, quantiles=LEVELS, mean=MEAN, std=STD)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return series_mlp(4 * 2 * 3, channels=3, window=8, width=6, depth=1)


def drawn(count: int = 6) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    labels = MEAN + STD * torch.randn(count, 4, 2, generator=random)
    labels[1, 2, 0] = float("nan")
    return {"series": torch.randn(count, 8, 3, generator=random), "labels": labels}


def scores(outputs: np.ndarray, batch: dict, task=TASK) -> ScoreTable:
    table = ScoreTable(task.scores)
    weights = {name: one.numpy() for name, one in task.weights(batch).items()}
    table.update({"quantiles": outputs}, {"labels": batch["labels"].numpy()}, weights)
    return table


def test_the_pinball_loss_is_that_of_scikit_learn_for_each_target():
    batch = drawn(40)
    outputs = TorchPredictor(net(), TASK).predict(batch)["quantiles"]
    found = scores(outputs, batch).values()
    labels = batch["labels"].numpy()
    known = np.isfinite(labels)
    each = [
        mean_pinball_loss(
            labels[..., target][known[..., target]],
            outputs[..., target, place][known[..., target]],
            alpha=level,
        )
        for target in range(2)
        for place, level in enumerate(LEVELS)
    ]
    # Of several targets, each is divided by its standard deviation.
    scaled = np.reshape(each, (2, 3)) / STD.numpy()[:, None]
    assert found["pinball"] == pytest.approx(scaled.mean(), rel=1e-5)
    assert TASK.scores[0].metric.unit == "SD"
    sizes = [np.abs(labels[..., target][known[..., target]]).mean() for target in range(2)]
    expected = np.mean([2 * np.mean(each[3 * t : 3 * t + 3]) / sizes[t] for t in range(2)])
    assert found["wql"] == pytest.approx(expected, rel=1e-5)
    inside = (outputs[..., 0] <= labels) & (labels <= outputs[..., -1])
    shares = [inside[..., target][known[..., target]].mean() for target in range(2)]
    assert found["coverage_error"] == pytest.approx(abs(np.mean(shares) - 0.8), abs=1e-6)
    assert not any(one.metric.higher_is_better for one in TASK.scores)
    interval = score_value(scores(outputs, batch), TASK.scores[0]).interval
    assert interval.low < found["pinball"] < interval.high


def test_the_loss_equals_its_definition_in_float64_and_is_least_at_the_quantile():
    random = torch.Generator().manual_seed(0)
    target = torch.randn(50, generator=random, dtype=torch.float64)
    predicted = torch.randn(50, 3, generator=random, dtype=torch.float64, requires_grad=True)
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    expected = [
        sum((tau if y >= q else tau - 1) * (y - q) for q, tau in zip(row, LEVELS, strict=True)) / 3
        for row, y in zip(predicted.tolist(), target.tolist(), strict=True)
    ]
    found = pinball_loss(predicted, target, levels)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda one: pinball_loss(one, target, levels), predicted)
    many = torch.randn(20_000, generator=random)
    grid = torch.linspace(-2, 2, 401)
    for level in LEVELS:
        losses = [
            pinball_loss(q.expand(20_000, 1), many, torch.tensor([level])).mean() for q in grid
        ]
        best = grid[int(torch.stack(losses).argmin())]
        assert best == pytest.approx(torch.quantile(many, level).item(), abs=0.03)


def test_quantiles_do_not_cross_and_outputs_are_in_units():
    batch, model = drawn(), net()
    outputs = TASK.outputs(model, batch)["quantiles"]
    assert outputs.shape == (6, 4, 2, 3)
    assert (outputs.diff(dim=-1) >= 0).all()
    values = TASK.respond(model, batch).primary.values.view(6, 4, 2, 3)
    torch.testing.assert_close(outputs, values * STD[:, None] + MEAN[:, None])
    raw = model(batch["series"]).view(6, 4, 2, 3)
    torch.testing.assert_close(values, raw.sort(-1).values)


def gradient(model: nn.Module, batches: list[dict]) -> torch.Tensor:
    objective = Objective([Term("task"), Term("logit_mse", weight=2.0)])
    teacher = FrozenTeacher(net(5), TASK)
    whole = {"quantiles": 0, "quantiles/labels": 0}
    for batch in batches:
        for name, one in total_weights(TASK, batch).items():
            whole[name] = whole[name] + one
    model.zero_grad()
    for batch in batches:
        response, answer = TASK.respond(model, batch), teacher.answer(batch)
        objective(response, answer, task_loss=TASK.loss, total_weights=whole).total.backward()
    return torch.cat([one.grad.flatten() for one in model.parameters()])


def test_a_cut_batch_has_the_gradient_of_the_whole_and_missing_labels_weigh_nothing():
    batch, model = drawn(), net()
    parts = [{k: one[a:b] for k, one in batch.items()} for a, b in ((0, 1), (1, 4), (4, 6))]
    whole = gradient(model, [batch])
    assert torch.isfinite(whole).all()
    assert whole.abs().max() > 1e-2
    torch.testing.assert_close(gradient(model, parts), whole, rtol=1e-4, atol=1e-6)
    weights = TASK.weights(batch)["quantiles"].view(6, 4, 2)
    assert weights.sum() == 47
    assert weights[1, 2, 0] == 0
    weighted = {**batch, "weight": torch.tensor([1.0, 1, 1, 1, 1, 0])}
    expected = gradient(model, [{name: one[:5] for name, one in batch.items()}])
    torch.testing.assert_close(gradient(model, [weighted]), expected, rtol=1e-4, atol=1e-6)
    outputs = TASK.outputs(model, batch)["quantiles"].detach().numpy()
    part = {name: one[:5] for name, one in batch.items()}
    assert scores(outputs, weighted).values() == pytest.approx(scores(outputs[:5], part).values())


def test_the_file_gives_the_quantiles(tmp_path):
    model, batch = net().eval(), drawn()
    to_onnx(model, TASK, batch, tmp_path / "model.onnx")
    found = OnnxPredictor(tmp_path / "model.onnx").predict(batch)["quantiles"]
    expected = TorchPredictor(model, TASK).predict(batch)["quantiles"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("width", [23, 12])
def test_another_number_of_values_is_refused(width):
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, width))
    with pytest.raises(InputError, match="one tensor of 24 values per sample"):
        TASK.outputs(model, drawn())


def test_labels_of_another_horizon_are_refused():
    batch = drawn()
    batch["labels"] = batch["labels"][:, :3]
    with pytest.raises(InputError, match=r"batch.labels: got \[6, 3, 2\]; allowed: \[6, 4, 2\]"):
        TASK.respond(net(), batch)


def test_distill_takes_windows_and_the_task_as_an_object():
    random = torch.Generator().manual_seed(0)
    series = torch.randn(120, 8, 2, generator=random).cumsum(1)
    data = TensorDataset(series, series[:, -1:, :1].repeat(1, 3, 1))
    models = [series_mlp(9, 2, 8, width=width, depth=1) for width in (16, 2)]
    task = SeriesForecasting(("load",), horizon=3)
    found = limbeck.distill(*models, data, task=task, epochs=2, batch_size=16)
    assert list(found.scores) == ["pinball", "wql", "coverage_error"]
    with pytest.raises(InputError, match=r"SeriesForecasting\(targets, horizon=\.\.\.\)"):
        limbeck.distill(*models, data, task="series_forecasting", epochs=1)


def test_data_without_windows_are_refused():
    table = SimpleNamespace(classes=(), targets=(), preprocess=None)
    with pytest.raises(InputError, match=r"data\.series: field required"):
        SeriesForecasting.of(table)
