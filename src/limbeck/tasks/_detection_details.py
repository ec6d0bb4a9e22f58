"""Details of detection for a report: AP by class, matched boxes, and boxes of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core.illustration import Box, Illustration, Raster, Side, encode_photo, legend
from limbeck.core.measurement import Metric
from limbeck.tasks._anchors import PADDING
from limbeck.tasks._average_precision import box_iou, match, parts, precision_of_classes
from limbeck.tasks.details import Breakdown, Details, Shown
from limbeck.tasks.scores import Score, of_sums, ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.tasks.scores import Arrays, Sums

SHOWN_SCORE = 0.5
"""The score from which boxes are drawn and compared with the teacher's."""

MOST_BOXES = 60
"""The largest number of boxes drawn in an image, those of the highest scores."""


def _matched(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    """Return twice the matched boxes, and the boxes of both models, `[samples, 2]`."""
    rows = []
    for image, found in enumerate(outputs["labels"]):
        kept = (found >= 0) & (outputs["scores"][image] >= SHOWN_SCORE)
        own, other = found[kept], batch["labels"][image]
        boxes, known = outputs["boxes"][image][kept], other != PADDING
        others, other = batch["boxes"][image][known], other[known]
        matches = 0
        for label in np.unique(own):  # by descending score, as the file returns them
            iou = box_iou(boxes[own == label], others[other == label])
            matches += int(match(iou)[:, 0].sum())
        rows.append([2 * matches, len(own) + len(other)])
    weight = np.asarray(batch.get("weight", np.ones(len(rows))), np.float64)
    return np.array(rows, np.float64).reshape(-1, 2) * weight[:, None]


MATCHED_BOXES = Score(
    Metric(name="matched_boxes", title="Share of matched boxes"), _matched, of_sums(ratio)
)
"""The share of both models' boxes, of a score of 0.5 or more, that have a counterpart of the same
class with an IoU of 0.5 or more in the other model: an F1 score."""


def detection_details(classes: tuple[str, ...]) -> Details:
    """Return the details of a detection of classes."""
    breakdowns = [
        Breakdown(
            Metric(name=name, title=title),
            classes,
            parts,
            precision_of_classes(len(classes), thresholds),
            by="class",
            note="Average precision as COCO defines it, over all test images.",
        )
        for name, title, thresholds in (
            ("ap", "AP@[.5:.95]", slice(None)),
            ("ap_50", "AP@.5", slice(0, 1)),
        )
    ]

    def illustrate(shown: Shown) -> Illustration:
        height, width = shown.batch["image"].shape[-2:]
        size = np.array([width, height, width, height], np.float64)
        sides: dict[Side, Arrays] = {"truth": shown.batch, "teacher": shown.teacher}
        sides["student"] = shown.student
        rasters = [_raster(side, values, size, classes) for side, values in sides.items()]
        view = shown.raw.get("view")
        if view is None:
            return Illustration(rasters=tuple(rasters))
        share = view.height / view.width
        return Illustration(rasters=tuple(rasters), source=encode_photo(view), height=share)

    return Details(
        breakdowns=tuple(breakdowns),
        agreements=(MATCHED_BOXES,),
        relabelled=_relabelled,
        illustrate=illustrate,
        legend=legend(classes),
        drawing=f"Drawn are boxes of a score of {SHOWN_SCORE:g} or more, with their scores.",
    )


def _relabelled(outputs: Arrays, batch: Arrays) -> Arrays:
    kept = (outputs["labels"] >= 0) & (outputs["scores"] >= SHOWN_SCORE)
    labels = np.where(kept, outputs["labels"], PADDING).astype(np.int64)
    return {**batch, "labels": labels, "boxes": outputs["boxes"]}


def _raster(
    side: Side, values: Arrays, size: NDArray[np.float64], classes: tuple[str, ...]
) -> Raster:
    labels: NDArray[Any] = values["labels"][0].astype(np.int64)
    scores = None if side == "truth" else values["scores"][0]
    kept = labels >= 0 if scores is None else (labels >= 0) & (scores >= SHOWN_SCORE)
    rows = np.flatnonzero(kept)
    boxes = tuple(
        Box(
            name=classes[labels[row]],
            corners=tuple((values["boxes"][0][row] / size).clip(0, 1).round(4).tolist()),
            score=None if scores is None else round(float(scores[row]), 3),
        )
        for row in rows[:MOST_BOXES]
    )
    counts = np.bincount(labels[rows], minlength=len(classes))
    names = tuple(name for name, count in zip(classes, counts, strict=True) if count)
    shown = ", ".join(f"{n} {name}" for name, n in zip(classes, counts, strict=True) if n)
    word = "label" if side == "truth" else side
    noun = "box" if len(rows) == 1 else "boxes"
    return Raster(
        title=f"{word}: {len(rows)} {noun}",
        text=f"boxes of the {word}: {shown or 'none'}",
        side=side,
        boxes=boxes,
        names=names,
    )
