"""Details of tasks: values against scikit-learn and torchmetrics, and agreement with a teacher."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.detection import MeanAveragePrecision

from limbeck.tasks import ScoreTable, details_of
from limbeck.tasks._anchors import PADDING
from limbeck.tasks.details import Breakdown, Shown
from limbeck.tasks.image_segmentation import IGNORED, ImageSegmentation
from limbeck.tasks.object_detection import ObjectDetection
from limbeck.tasks.series_forecasting import SeriesForecasting
from limbeck.tasks.tabular_multilabel import TabularMultilabel
from limbeck.tasks.tabular_regression import TabularRegression

CLASSES = ("sky", "street", "car", "tree")
SEGMENTATION, DETECTION = ImageSegmentation(CLASSES), ObjectDetection(CLASSES[:3])
SCALE = torch.tensor([2.0, 50.0])
REGRESSION = TabularRegression(("age", "price"), mean=torch.tensor([1.0, 9.0]), std=SCALE)
FORECAST = SeriesForecasting(("load", "heat"), horizon=3, std=SCALE)


def value(one: Breakdown, outputs, batch, weights) -> np.ndarray:
    parts = one.parts(outputs, batch, weights)
    return one.value(parts, np.ones((1, len(parts))))[0]


def agreement(task, student, teacher, batch, weights) -> dict[str, float]:
    table = ScoreTable(task.details.agreements)
    table.update(student, task.details.relabelled(teacher, batch), weights)
    return table.values()


def masks(seed: int, count: int = 5):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, (count, 6, 7))  # no tree
    labels[random.random(labels.shape) < 0.2] = IGNORED
    logits = random.normal(size=(count, 4, 6, 7)).astype(np.float32)
    logits[:, 3] -= 99
    weights = {"logits": (labels != IGNORED).astype(np.float32).ravel()}
    return {"logits": logits}, {"labels": labels}, weights


def test_the_iou_of_a_class_is_that_of_torchmetrics():
    outputs, batch, weights = masks(0)
    [one] = SEGMENTATION.details.breakdowns
    reference = MulticlassJaccardIndex(4, average="none", ignore_index=IGNORED)
    expected = reference(torch.tensor(outputs["logits"]), torch.tensor(batch["labels"]))
    found = value(one, outputs, batch, weights)
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-6)
    assert np.isnan(found[3])  # neither labelled nor predicted
    assert one.names == CLASSES


def test_the_agreement_of_masks_counts_labelled_pixels_only():
    student, batch, weights = masks(1)
    teacher, _, _ = masks(2)
    kept = batch["labels"] != IGNORED
    one, other = (side["logits"].argmax(1)[kept] for side in (student, teacher))
    found = agreement(SEGMENTATION, student, teacher, batch, weights)
    assert found["pixel_agreement"] == pytest.approx((one == other).mean())
    expected = metrics.jaccard_score(other, one, average="macro")
    assert found["mask_iou"] == pytest.approx(expected)
    same = agreement(SEGMENTATION, teacher, teacher, batch, weights)
    assert set(same.values()) == {1.0}


def boxes(seed: int, count: int = 8, *, scored: bool = True):
    """Return boxes of some images as a file has them, or as labels."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 40, (count, 6, 2))
    found = np.concatenate([corners, corners + random.uniform(8, 24, (count, 6, 2))], axis=2)
    labels = random.integers(-1, 2, (count, 6))  # no car
    if not scored:
        return {"labels": np.where(labels < 0, PADDING, labels), "boxes": found}
    scores = -np.sort(-random.uniform(0, 1, (count, 6)), axis=1)
    return {"labels": labels, "boxes": found, "scores": np.where(labels < 0, 0, scores)}


def moved(truth: dict, seed: int) -> dict:
    """Return detections near labelled boxes."""
    found = boxes(seed, len(truth["labels"]))
    near = truth["boxes"] + np.random.default_rng(seed).normal(0, 1.5, truth["boxes"].shape)
    labels = np.where(truth["labels"] < 0, -1, truth["labels"])
    return {**found, "boxes": near, "labels": labels}


def test_the_average_precision_of_a_class_is_that_of_torchmetrics():
    batch = boxes(3, scored=False)
    outputs = moved(batch, 4)
    reference = MeanAveragePrecision(class_metrics=True)
    reference.update(
        [
            {
                "boxes": torch.tensor(outputs["boxes"][n][k], dtype=torch.float32),
                "scores": torch.tensor(outputs["scores"][n][k], dtype=torch.float32),
                "labels": torch.tensor(outputs["labels"][n][k]),
            }
            for n, k in enumerate(outputs["labels"] >= 0)
        ],
        [
            {
                "boxes": torch.tensor(batch["boxes"][n][k], dtype=torch.float32),
                "labels": torch.tensor(batch["labels"][n][k]),
            }
            for n, k in enumerate(batch["labels"] >= 0)
        ],
    )
    expected = reference.compute()["map_per_class"].numpy()
    found = value(DETECTION.details.breakdowns[0], outputs, batch, {})
    np.testing.assert_allclose(found[:2], expected, atol=1e-6)
    assert np.isnan(found[2])
    table = ScoreTable(DETECTION.scores)
    table.update(outputs, batch, {})
    assert np.nanmean(found) == pytest.approx(table.values()["map"])


def test_matched_boxes_are_an_f1_score_of_boxes_with_a_score():
    teacher = {
        "labels": np.array([[0, 1, -1], [0, -1, -1]]),
        "scores": np.array([[0.9, 0.8, 0.0], [0.2, 0.0, 0.0]]),
        "boxes": np.array([[[0, 0, 10, 10], [20, 20, 30, 30], [0] * 4], [[0, 0, 5, 5]] * 3]) * 1.0,
    }
    student = {
        "labels": np.array([[0, 0, 1], [1, -1, -1]]),
        "scores": np.array([[0.9, 0.6, 0.5], [0.7, 0.0, 0.0]]),
        "boxes": np.array([[[0, 0, 10, 9], [20, 20, 30, 30], [21, 20, 31, 30]], [[0] * 4] * 3]),
    }
    batch = boxes(0, 2, scored=False)
    found = agreement(DETECTION, student, teacher, batch, {})
    # Two of the student's four boxes match the teacher's two; the box of 0.2 does not count.
    assert found["matched_boxes"] == pytest.approx(2 * 2 / (4 + 2))
    assert agreement(DETECTION, teacher, teacher, batch, {})["matched_boxes"] == 1
    nothing = {**teacher, "scores": teacher["scores"] * 0}
    assert np.isnan(agreement(DETECTION, nothing, nothing, batch, {})["matched_boxes"])


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_scores_of_a_target_are_sklearns_and_the_mean_is_standardised(seed, weighted):
    random = np.random.default_rng(seed)
    labels = random.normal(0, SCALE.numpy(), (30, 2))
    outputs = {"values": labels + random.normal(0, 1, (30, 2))}
    weight = random.uniform(0.1, 2, 30) if weighted else np.ones(30)
    table = ScoreTable(REGRESSION.scores)
    table.update(outputs, {"labels": labels}, {"values": weight})
    means = table.values()
    functions = (
        metrics.r2_score,
        metrics.root_mean_squared_error,
        metrics.mean_absolute_error,
    )
    for one, function in zip(REGRESSION.details.breakdowns, functions, strict=True):
        found = value(one, outputs, {"labels": labels}, {"values": weight})
        expected = function(
            labels, outputs["values"], sample_weight=weight, multioutput="raw_values"
        )
        np.testing.assert_allclose(found, expected)
        scale = 1.0 if one.metric.name == "r2" else SCALE.numpy()
        assert means[one.metric.name] == pytest.approx((expected / scale).mean())
    assert [one.metric.unit for one in REGRESSION.scores] == ["", "SD", "SD"]
    assert [one.metric.unit for one in TabularRegression(("age",)).scores] == ["", "", ""]


def test_the_agreement_of_values_is_a_median_and_r_squared():
    random = np.random.default_rng(0)
    batch = {"labels": random.normal(size=(21, 2))}
    student, teacher = ({"values": random.normal(size=(21, 2))} for _ in range(2))
    found = agreement(REGRESSION, student, teacher, batch, {"values": np.ones(21)})
    gaps = (np.abs(student["values"] - teacher["values"]) / SCALE.numpy()).mean(axis=1)
    assert found["median_difference"] == pytest.approx(np.median(gaps))
    expected = metrics.r2_score(teacher["values"], student["values"])
    assert found["teacher_r2"] == pytest.approx(expected)


def forecasts(seed: int, count: int = 15):
    random = np.random.default_rng(seed)
    values = np.sort(random.normal(0, 1, (count, 3, 2, 3)), axis=-1) * SCALE.numpy()[:, None]
    labels = (random.normal(0, 1, (count, 3, 2)) * SCALE.numpy()).astype(np.float32)
    labels[0, 1, 0] = np.nan
    weights = {"quantiles": np.isfinite(labels).astype(np.float32).ravel()}
    return {"quantiles": values}, {"labels": labels}, weights


def test_the_loss_by_step_and_target_and_coverage_are_those_of_their_definitions():
    outputs, batch, weights = forecasts(0)
    labels, quantiles = batch["labels"], outputs["quantiles"]
    known = np.isfinite(labels)

    def pinball(rows, target, level, place):
        mask = known[:, rows, target]
        return metrics.mean_pinball_loss(
            labels[:, rows, target][mask], quantiles[:, rows, target, place][mask], alpha=level
        )

    step, coverage, target = FORECAST.details.breakdowns
    levels = list(enumerate(FORECAST.quantiles))
    found = value(target, outputs, batch, weights)
    expected = [
        np.mean([pinball(slice(None), t, level, place) for place, level in levels]) for t in (0, 1)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    last = value(step, outputs, batch, weights)[2]  # a step without a missing label
    both = [
        np.mean([pinball(slice(2, 3), t, level, place) for place, level in levels]) / SCALE[t]
        for t in (0, 1)
    ]
    assert last == pytest.approx(float(np.mean(both)), rel=1e-6)
    shares = [(labels <= quantiles[..., place])[known].mean() for place, _ in levels]
    np.testing.assert_allclose(value(coverage, outputs, batch, weights), shares)
    assert step.ordered
    assert step.names == ("step 1", "step 2", "step 3")


def test_a_drop_of_coverage_is_its_larger_distance_from_the_level():
    coverage = FORECAST.details.breakdowns[1]
    student, teacher = np.array([[0.2, 0.5, 0.9]]), np.array([[0.1, 0.7, 0.8]])
    np.testing.assert_allclose(coverage.drop(student, teacher), [[0.1, -0.2, -0.1]])
    step = FORECAST.details.breakdowns[0]
    np.testing.assert_allclose(step.drop(student, teacher), student - teacher)


def test_the_agreement_of_forecasts_compares_medians():
    (student, batch, weights), (teacher, _, _) = forecasts(1), forecasts(2)
    found = agreement(FORECAST, student, teacher, batch, weights)
    one, other = (side["quantiles"][..., 1] for side in (student, teacher))
    known = np.isfinite(batch["labels"])
    gaps = np.where(known, np.abs(one - other) / SCALE.numpy(), 0)
    each = gaps.sum(axis=(1, 2)) / known.sum(axis=(1, 2))
    assert found["median_difference"] == pytest.approx(np.median(each))
    low, high = teacher["quantiles"][..., 0], teacher["quantiles"][..., -1]
    expected = ((low <= one) & (one <= high))[known].mean()
    assert found["within_band"] == pytest.approx(expected)


def test_the_f1_score_of_a_label_is_sklearns():
    random = np.random.default_rng(0)
    task = TabularMultilabel(("a", "b", "c"))
    labels = (random.random((40, 3)) < 0.4).astype(np.float32)
    logits = random.normal(size=(40, 3))
    labels[:, 2], logits[:, 2] = 0, -1
    outputs, weights = {"logits": logits}, {"logits": np.ones(40)}
    found = value(task.details.breakdowns[0], outputs, {"labels": labels}, weights)
    expected = metrics.f1_score(labels, logits > 0, average=None, zero_division=0)
    np.testing.assert_allclose(found[:2], expected[:2])
    assert np.isnan(found[2])
    other = {"logits": random.normal(size=(40, 3))}
    same = agreement(task, outputs, other, {"labels": labels}, weights)
    expected = ((logits > 0) == (other["logits"] > 0)).mean()
    assert same["label_agreement"] == pytest.approx(expected)


def test_illustrations_show_the_label_the_teacher_and_the_student():
    outputs, batch, _ = masks(0, 1)
    shown = SEGMENTATION.details.illustrate(Shown({}, batch, outputs, outputs))
    assert [one.side for one in shown.rasters] == ["truth", "teacher", "student"]
    assert shown.rasters[0].source != shown.rasters[1].source == shown.rasters[2].source
    correct = (outputs["logits"].argmax(1) == batch["labels"])[batch["labels"] != IGNORED].mean()
    assert shown.rasters[1].title == f"teacher: {100 * correct:.1f} % of pixels correct"

    labels = {**boxes(0, 1, scored=False), "image": np.zeros((1, 3, 80, 80))}
    found = boxes(1, 1)
    drawn = DETECTION.details.illustrate(Shown({}, labels, found, found)).rasters
    assert len(drawn[0].boxes) == (labels["labels"] >= 0).sum()
    kept = (found["labels"] >= 0) & (found["scores"] >= 0.5)
    assert [one.score for one in drawn[1].boxes] == found["scores"][kept].round(3).tolist()
    first = (found["boxes"][kept][0] / 80).clip(0, 1)
    np.testing.assert_allclose(drawn[1].boxes[0].corners, first, atol=1e-4)

    outputs, batch, _ = forecasts(0, 1)
    raw = {"window": {"load": np.arange(20.0), "heat": np.full(20, np.nan)}}
    [load, heat] = FORECAST.details.illustrate(Shown(raw, batch, outputs, outputs)).plots
    truth = load.traces[0]
    assert truth.x == tuple(range(-5, 4))
    assert truth.y[:6] == (14, 15, 16, 17, 18, 19)
    assert truth.y[7] is None  # the missing label
    assert heat.traces[0].y[:6] == (None,) * 6
    band = next(one for one in load.traces if one.form == "band")
    np.testing.assert_allclose(band.high, outputs["quantiles"][0, :, 0, -1], rtol=1e-4)


def test_an_overview_has_truth_and_residuals_of_each_target():
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    labels = {"labels": np.array([[1.5, 2.0], [3.0, 3.0]])}
    one, two = {"values": values}, {"values": values + 1}
    plots = REGRESSION.details.overview(Shown({}, labels, one, two))
    titles = [plot.title for plot in plots]
    kinds = ("prediction and truth", "residuals")
    assert titles == [f"{name}: {kind}" for name in ("age", "price") for kind in kinds]
    teacher, student = plots[1].traces
    assert (teacher.side, teacher.x, teacher.y) == ("teacher", (2.0, 4.0), (0.5, 1.0))
    assert (student.side, student.x, student.y) == ("student", (1.0, 3.0), (-0.5, 0.0))


def test_a_task_without_details_has_none():
    assert details_of(object()) is None
