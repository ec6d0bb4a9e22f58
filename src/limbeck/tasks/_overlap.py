"""Intersection over union and accuracy of masks, with parts per image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from limbeck.core.measurement import Metric
from limbeck.tasks._model_output import LOGITS
from limbeck.tasks.scores import Score, of_sums, ratio
from limbeck.tasks.task import IGNORED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.tasks.scores import Arrays, Sums


def _flat(outputs: Arrays, batch: Arrays, weights: Arrays) -> tuple[NDArray[np.int64], ...]:
    """Return predicted classes, labels and weights of every pixel, `[samples, pixels]`."""
    predicted, labels = outputs[LOGITS].argmax(axis=1), batch["labels"]
    rows = len(labels), -1
    return predicted.reshape(rows), labels.reshape(rows), weights[LOGITS].reshape(rows)


def overlaps(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    """Return intersection and union of every class, `[samples, 2 * classes]`."""
    predicted, labels, weight = _flat(outputs, batch, weights)
    parts = []
    for number in range(outputs[LOGITS].shape[1]):
        found, true = predicted == number, labels == number
        parts.append([(weight * one).sum(axis=1) for one in (found & true, found | true)])
    both = np.array(parts, dtype=np.float64)
    return np.concatenate([both[:, 0], both[:, 1]]).T


def iou_of_classes(sums: Sums) -> NDArray[np.float64]:
    """Compute the IoU of every class from sums `[..., 2 * classes]`; NaN for an absent class.

    Example:
        >>> iou_of_classes(np.array([1.0, 0.0, 4.0, 0.0])).tolist()
        [0.25, nan]
    """
    intersection, union = np.split(sums, 2, axis=-1)
    nothing = np.full_like(union, np.nan)
    return np.asarray(np.divide(intersection, union, out=nothing, where=union > 0))


def mean_iou(sums: Sums) -> NDArray[np.float64]:
    """Compute the mean IoU of the classes that are labelled or predicted, `[...]`."""
    each = iou_of_classes(sums)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(each, axis=-1) / (~np.isnan(each)).sum(axis=-1))


def correct_pixels(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    predicted, labels, weight = _flat(outputs, batch, weights)
    parts = [(weight * one).sum(axis=1) for one in (predicted == labels, labels != IGNORED)]
    return np.array(parts, dtype=np.float64).T


MEAN_IOU = Score(Metric(name="miou", title="mIoU"), overlaps, of_sums(mean_iou))
"""The mean intersection over union of the classes, over all pixels of a split (Jaccard index); a
class that is neither labelled nor predicted is left out."""

PIXEL_ACCURACY = Score(
    Metric(name="pixel_accuracy", title="Pixel accuracy"), correct_pixels, of_sums(ratio)
)
"""The weighted share of pixels whose largest logit is that of the label."""
