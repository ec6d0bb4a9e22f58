"""Details of small made-up results: segmentation, detection, forecasts and regression."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image

from limbeck.evaluate.detail_results import TaskDetails
from limbeck.evaluate.details import Pair, Source, task_details
from limbeck.tasks.image_segmentation import IGNORED, ImageSegmentation
from limbeck.tasks.object_detection import ObjectDetection
from limbeck.tasks.series_forecasting import SeriesForecasting
from limbeck.tasks.tabular_regression import TabularRegression

Arrays = Mapping[str, np.ndarray]
COUNT = 12


def source_of(
    batch: Arrays,
    weight: np.ndarray,
    student: Arrays,
    teacher: Arrays | None,
    *,
    output: str = "logits",
    raw: Callable[[int], dict[str, object]] = lambda row: {},
) -> Source:
    """Return test samples; `weight` has one entry per element of each sample."""

    def pair(rows) -> Pair:
        def own(values: Arrays) -> Arrays:
            return {name: one[rows] for name, one in values.items()}

        weights = {output: weight[rows].ravel()}
        other = None if teacher is None else own(teacher)
        return Pair(own(batch), weights, own(student), other)

    samples = len(weight)
    blocks = np.array_split(np.arange(samples), 3)
    return Source(lambda: map(pair, blocks), pair, raw, samples)


def noise(row: int, side: int = 240) -> dict[str, object]:
    """Return an image that compresses badly."""
    pixels = np.random.default_rng(row).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return {"view": Image.fromarray(pixels)}


def segmentation(
    classes: tuple[str, ...], *, size: int = 24, teacher: bool = True, raw=noise
) -> TaskDetails:
    """Return the details of a segmentation whose student predicts class 0 in place of class 1."""
    random = np.random.default_rng(0)
    truth = random.integers(0, len(classes), (COUNT, size, size))
    wrong = np.where((truth == 1) & (random.random(truth.shape) < 0.7), 0, truth)
    labels = np.where(random.random(truth.shape) < 0.1, IGNORED, truth)

    def logits(mask: np.ndarray) -> Arrays:
        return {"logits": np.moveaxis(np.eye(len(classes), dtype=np.float32)[mask], -1, 1)}

    weight = (labels != IGNORED).astype(np.float32)
    other = logits(truth) if teacher else None
    source = source_of({"labels": labels}, weight, logits(wrong), other, raw=raw)
    return task_details(ImageSegmentation(classes).details, source)


def detection(classes: tuple[str, ...], *, boxes: int = 5, raw=noise) -> TaskDetails:
    """Return the details of a detection of random boxes in images of 64x64 pixels."""
    random = np.random.default_rng(1)
    corners = random.uniform(0, 40, (COUNT, boxes, 2))
    truth = np.concatenate([corners, corners + random.uniform(8, 24, corners.shape)], axis=2)
    labels = random.integers(0, len(classes), (COUNT, boxes))

    def found(spread: float) -> Arrays:
        scores = -np.sort(-random.uniform(0.2, 1, (COUNT, boxes)), axis=1)
        near = truth + random.normal(0, spread, truth.shape)
        return {"labels": labels, "scores": scores, "boxes": near}

    batch = {"labels": labels, "boxes": truth, "image": np.zeros((COUNT, 1, 64, 64), np.uint8)}
    source = source_of(batch, np.ones((COUNT, 1)), found(3.0), found(1.0), raw=raw)
    return task_details(ObjectDetection(classes).details, source)


def forecast(targets: tuple[str, ...] = ("load",), *, horizon: int = 6) -> TaskDetails:
    """Return the details of a forecast of random values."""
    random = np.random.default_rng(2)
    shape = (COUNT, horizon, len(targets))
    labels = random.normal(size=shape).astype(np.float32)
    labels[0, 2] = np.nan

    def quantiles(spread: float) -> Arrays:
        middle = np.nan_to_num(labels)[..., None] + random.normal(0, spread, (*shape, 1))
        return {"quantiles": middle + np.array([-1.0, 0.0, 1.0])}

    past = {name: np.arange(30.0) / 10 for name in targets}
    task = SeriesForecasting(targets, horizon=horizon, std=torch.full((len(targets),), 2.0))
    source = source_of(
        {"labels": labels},
        np.isfinite(labels).astype(np.float32),
        quantiles(1.0),
        quantiles(0.2),
        output="quantiles",
        raw=lambda row: {"window": past},
    )
    return task_details(task.details, source)


def regression(targets: tuple[str, ...] = ("price",)) -> TaskDetails:
    """Return the details of a regression of random values."""
    random = np.random.default_rng(3)
    labels = random.normal(size=(COUNT, len(targets)))
    student, teacher = (
        {"values": labels + random.normal(0, spread, labels.shape)} for spread in (0.5, 0.1)
    )
    task = TabularRegression(targets, std=torch.ones(len(targets)))
    source = source_of({"labels": labels}, np.ones(COUNT), student, teacher, output="values")
    return task_details(task.details, source)


def combined(*found: TaskDetails) -> TaskDetails:
    """Return the details of several tasks as one, so that a page shows all of them."""
    names = ("breakdowns", "agreements", "samples", "overview", "legend")
    parts = {name: tuple(x for one in found for x in getattr(one, name)) for name in names}
    return TaskDetails(**parts, caption=found[0].caption)
