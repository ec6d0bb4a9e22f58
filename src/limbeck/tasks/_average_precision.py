"""Mean average precision of detected boxes, as COCO defines it, with parts per image.

An image's parts have a row per detection and a row per labelled box: class, score (NaN of a
labelled box), the image's weight, and for each IoU threshold whether the detection is a match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Metric
from limbeck.tasks._anchors import PADDING
from limbeck.tasks.scores import Arrays, Counts, Parts, Score

Array = NDArray[Any]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""The IoU thresholds of COCO."""

RECALLS = np.linspace(0, 1, 101)
"""The recalls at which the precision is interpolated."""

_FLAGS = 3  # the column of the first threshold


def box_iou(one: Array, two: Array) -> Array:
    """Compute the IoU of boxes (x1, y1, x2, y2), `[a, b]`.

    Example:
        >>> box_iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [4, 4, 5, 5]])).round(3)
        array([[0.333, 0.   ]])
    """
    one, two = one.astype(np.float64), two.astype(np.float64)
    low = np.maximum(one[:, None, :2], two[:, :2])
    high = np.minimum(one[:, None, 2:], two[:, 2:])
    overlap = (high - low).clip(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (one, two)]
    union = areas[0][:, None] + areas[1] - overlap
    return np.asarray(overlap / np.where(union > 0, union, 1))


def match(iou: Array) -> NDArray[np.bool_]:
    """Assign detections, by descending score, to labelled boxes of their class.

    At each threshold a detection takes the box of the largest IoU among those that are left, if it
    is at least the threshold.

    Args:
        iou: `[detections, boxes]`.

    Returns:
        Whether a detection has a match, `[detections, thresholds]`.

    Example:
        >>> match(np.array([[0.6], [0.9]])).sum(0).tolist()
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    """
    found = np.zeros((len(iou), len(THRESHOLDS)), bool)
    if not iou.size:
        return found
    free = np.ones((len(THRESHOLDS), iou.shape[1]), bool)
    thresholds = np.arange(len(THRESHOLDS))
    for place, row in enumerate(iou):
        left = np.where(free, row, -1.0)
        # Of equal ones COCO takes the last.
        best = left.shape[1] - 1 - left[:, ::-1].argmax(axis=1)
        found[place] = left[thresholds, best] >= THRESHOLDS
        free[thresholds, best] &= ~found[place]
    return found


def parts(outputs: Arrays, batch: Arrays, weights: Arrays) -> Parts:
    """Compute the parts of each image of a batch from its `boxes`, `scores` and `labels`."""
    count = len(outputs["labels"])
    weight = np.asarray(batch.get("weight", np.ones(count)), np.float64)
    return [
        np.concatenate(list(_rows(outputs, batch, image, weight[image]))) for image in range(count)
    ]


def _rows(outputs: Arrays, batch: Arrays, image: int, weight: float) -> Iterator[Array]:
    true = np.asarray(batch["labels"][image])
    kept = true != PADDING
    true, true_boxes = true[kept], np.asarray(batch["boxes"][image])[kept]
    found, scores = (np.asarray(outputs[name][image]) for name in ("labels", "scores"))
    yield np.zeros((0, _FLAGS + len(THRESHOLDS)))
    for label in np.union1d(true, found[found >= 0]):
        own = np.flatnonzero(found == label)
        own = own[np.argsort(-scores[own], kind="stable")]
        rows = np.zeros((len(own), _FLAGS + len(THRESHOLDS)))
        iou = box_iou(np.asarray(outputs["boxes"][image])[own], true_boxes[true == label])
        rows[:, _FLAGS:] = match(iou)
        labelled = np.zeros((int((true == label).sum()), rows.shape[1]))
        rows[:, 1], labelled[:, 1] = scores[own], np.nan
        for some in (rows, labelled):
            some[:, 0], some[:, 2] = label, weight
            yield some


def _value(thresholds: slice) -> Callable[[Parts, Counts], NDArray[np.float64]]:
    def value(parts: Parts, counts: Counts) -> NDArray[np.float64]:
        rows = np.concatenate(list(parts))
        precisions = _by_class(parts, counts, np.unique(rows[np.isnan(rows[:, 1]), 0]), thresholds)
        with np.errstate(invalid="ignore"):  # a draw may lack a class, and even all of them
            present = ~np.isnan(precisions)
            return np.asarray(np.nansum(precisions, axis=0) / present.sum(axis=0))

    return value


def precision_of_classes(
    classes: int, thresholds: slice = slice(None)
) -> Callable[[Parts, Counts], NDArray[np.float64]]:
    """Return the function that computes the average precision of every class, `[draws, classes]`.

    It is the mean over the IoU thresholds; NaN for a class without a labelled box.
    """

    def value(parts: Parts, counts: Counts) -> NDArray[np.float64]:
        return _by_class(parts, counts, np.arange(classes), thresholds).T

    return value


def _by_class(parts: Parts, counts: Counts, labels: Array, thresholds: slice) -> Array:
    """Compute the average precision of some classes, `[classes, draws]`."""
    sample = np.repeat(np.arange(len(parts)), [len(rows) for rows in parts])
    rows = np.concatenate(list(parts))
    labelled = np.isnan(rows[:, 1])
    precisions = np.full((len(labels), len(counts)), np.nan)
    for place, label in enumerate(labels):
        own = rows[:, 0] == label
        total = counts[:, sample[own & labelled]] @ rows[own & labelled, 2]
        found = np.flatnonzero(own & ~labelled)
        found = found[np.argsort(-rows[found, 1], kind="stable")]
        weights = counts[:, sample[found]] * rows[found, 2]
        flags = rows[found, _FLAGS:].T[thresholds] > 0
        precisions[place] = average_precision(weights, flags, total)
    return precisions


def average_precision(weights: Array, flags: Array, total: Array) -> NDArray[np.float64]:
    """Compute the average precision of one class, the mean over thresholds, per bootstrap draw.

    The precision at a recall is the largest one at that or a larger recall, and the average is over
    101 recalls.

    Args:
        weights: How often each detection counts, by descending score, `[draws, detections]`.
        flags: Whether each is a match, `[thresholds, detections]`.
        total: The number of labelled boxes, `[draws]`.

    Returns:
        `[draws]`; NaN without a labelled box.

    Example:
        >>> weights, flags = np.ones((1, 3)), np.array([[True, False, True]])
        >>> average_precision(weights, flags, np.array([2.0])).round(4)
        array([0.835])

    Source: Lin et al. 2014, "Microsoft COCO"; pycocotools.
    """
    ranked = weights.cumsum(axis=1)
    average = np.zeros(len(weights))
    least = np.where(total > 0, total, 1)[:, None]
    for matched in flags:
        if not matched.any():
            continue
        # Recall rises at matches only, and precision is largest there.
        right, all_found = weights[:, matched].cumsum(axis=1), ranked[:, matched]
        precision = right / np.where(all_found > 0, all_found, 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALLS, right / least, side="right")
        average += (precision * np.diff(reached, axis=1, prepend=0)).sum(axis=1)
    return np.where(total > 0, average / (len(RECALLS) * len(flags)), np.nan)


MEAN_AVERAGE_PRECISION = Score(Metric(name="map", title="mAP@[.5:.95]"), parts, _value(slice(None)))
"""The mean average precision over classes and IoU thresholds from 0.5 to 0.95."""

MEAN_AVERAGE_PRECISION_50 = Score(Metric(name="map_50", title="mAP@.5"), parts, _value(slice(0, 1)))
"""The mean average precision over classes at an IoU threshold of 0.5."""
