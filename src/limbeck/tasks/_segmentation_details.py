"""Details of segmentation for a report: IoU by class, agreement of masks, and masks of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core.illustration import Illustration, Raster, Side, encode_mask, encode_photo, legend
from limbeck.core.measurement import Metric
from limbeck.tasks._model_output import LOGITS
from limbeck.tasks._overlap import correct_pixels, iou_of_classes, mean_iou, overlaps
from limbeck.tasks.details import Breakdown, Details, Shown, rows_of_sums
from limbeck.tasks.scores import Score, of_sums, ratio
from limbeck.tasks.task import IGNORED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.tasks.scores import Arrays

MOST_NAMED = 6
"""The number of classes that a text alternative names."""

PIXEL_AGREEMENT = Score(
    Metric(name="pixel_agreement", title="Pixel agreement"), correct_pixels, of_sums(ratio)
)
"""The share of labelled pixels whose class is that of the teacher."""

MASK_IOU = Score(
    Metric(name="mask_iou", title="mIoU of both models' masks"), overlaps, of_sums(mean_iou)
)
"""The mean IoU of the student's and the teacher's masks, over all labelled pixels of a split."""


def segmentation_details(classes: tuple[str, ...]) -> Details:
    """Return the details of a segmentation into classes."""
    keys = legend(classes)

    def illustrate(shown: Shown) -> Illustration:
        label = shown.batch["labels"][0]
        masks: dict[Side, NDArray[Any]] = {"truth": label}
        masks["teacher"] = shown.teacher[LOGITS][0].argmax(axis=0)
        masks["student"] = shown.student[LOGITS][0].argmax(axis=0)
        rasters = [] if "view" not in shown.raw else [Raster(title="image", text="the image")]
        for side, mask in masks.items():
            present = np.bincount(mask[mask >= 0].ravel(), minlength=len(classes))
            order = [number for number in np.argsort(-present, kind="stable") if present[number]]
            rasters.append(
                Raster(
                    title=_title(side, mask, label),
                    text=_text(side, [(classes[k], present[k] / mask.size) for k in order]),
                    side=side,
                    source=encode_mask(mask, keys),
                    names=tuple(classes[number] for number in order),
                )
            )
        source = encode_photo(shown.raw["view"]) if "view" in shown.raw else ""
        return Illustration(rasters=tuple(rasters), source=source)

    return Details(
        breakdowns=(
            Breakdown(
                Metric(name="iou", title="IoU"),
                classes,
                overlaps,
                rows_of_sums(iou_of_classes),
                by="class",
                note="Intersection over union, over the labelled pixels of all test images.",
            ),
        ),
        agreements=(PIXEL_AGREEMENT, MASK_IOU),
        relabelled=_relabelled,
        illustrate=illustrate,
        legend=keys,
        drawing="Masks are in the size of the model's input; pixels without a label are hatched.",
    )


def _relabelled(outputs: Arrays, batch: Arrays) -> Arrays:
    predicted = outputs[LOGITS].argmax(axis=1)
    return {**batch, "labels": np.where(batch["labels"] == IGNORED, IGNORED, predicted)}


def _title(side: Side, mask: NDArray[Any], label: NDArray[Any]) -> str:
    labelled = label != IGNORED
    if side == "truth":
        return "label"
    if not labelled.any():
        return side
    share = 100 * np.mean(mask[labelled] == label[labelled])
    return f"{side}: {share:.1f} % of pixels correct"


def _text(side: Side, shares: list[tuple[str, float]]) -> str:
    named = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares[:MOST_NAMED])
    whose = "labelled" if side == "truth" else f"the {side}'s"
    return f"{whose} mask: {named or 'no labelled pixel'}"
