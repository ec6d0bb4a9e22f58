"""Non-maximum suppression as one operator of a fixed output shape, with its ONNX translation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.core.imports import require


@torch.library.custom_op("limbeck::suppress", mutates_args=())
def suppress(
    boxes: Tensor, scores: Tensor, count: int, iou: float, least: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the boxes with the highest scores, per class without overlapping ones.

    Args:
        boxes: (x1, y1, x2, y2), `[n, points, 4]`.
        scores: `[n, classes, points]`, not negative.
        count: The number of boxes returned per image, at most classes · points.
        iou: The IoU above which the box of the lower score is suppressed, per class.
        least: Scores have to be above it, at least 0.

    Returns:
        By descending score, ties by class and point: the scores, the classes and the points, each
        `[n, count]`; for missing boxes the score is 0 and the class -1.

    Example:
        >>> boxes = torch.tensor([[[0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]]])
        >>> scores = torch.tensor([[[0.8, 0.9, 0.7]]])
        >>> scores, classes, points = suppress(boxes, scores, 3, 0.5, 0.0)
        >>> scores.tolist()[0][2], classes.tolist(), points.tolist()[0][:2]
        (0.0, [[0, 0, -1]], [1, 2])
    """
    ops = require("torchvision.ops", extra="vision")
    # The file compares with float32 numbers.
    iou, least = torch.tensor([iou, least], dtype=torch.float32).tolist()
    kept = torch.zeros_like(scores)
    for image, (own, rows) in enumerate(zip(boxes, scores, strict=True)):
        for label, row in enumerate(rows):
            above = (row > least).nonzero().squeeze(-1)
            chosen = above[ops.nms(own[above], row[above], iou)[:count]]
            kept[image, label, chosen] = row[chosen]
    found, places = kept.flatten(1).sort(dim=1, descending=True, stable=True)
    found, places = found[:, :count].contiguous(), places[:, :count]
    classes = torch.where(found > 0, places // boxes.shape[1], -1)
    return found, classes, places % boxes.shape[1]


@suppress.register_fake
def _(
    boxes: Tensor, scores: Tensor, count: int, iou: float, least: float
) -> tuple[Tensor, Tensor, Tensor]:
    whole = scores.new_empty((scores.shape[0], count), dtype=torch.int64)
    return scores.new_empty(whole.shape), whole, torch.empty_like(whole)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the ONNX translation of the operator, for `torch.onnx.export`.

    NonMaxSuppression returns the selected boxes of the whole batch in one list: their scores are
    scattered to zeros, of which TopK takes the largest of each image.
    """
    import numpy as np
    from onnx import numpy_helper
    from onnxscript import opset18 as op

    def constant(value: Any, dtype: type[np.generic]) -> Any:
        return op.Constant(value=numpy_helper.from_array(np.array(value, dtype)))

    def suppressed(boxes: Any, scores: Any, count: int, iou: float, least: float) -> Any:
        limits = (constant(iou, np.float32), constant(least, np.float32))
        chosen = op.NonMaxSuppression(boxes, scores, constant([count], np.int64), *limits)
        zeros = op.ConstantOfShape(op.Shape(scores))
        kept = op.ScatterND(zeros, chosen, op.GatherND(scores, chosen))
        flat = op.Reshape(kept, constant([0, -1], np.int64))
        found, places = op.TopK(flat, constant([count], np.int64), axis=1)
        points = constant(int(boxes.shape[1]), np.int64)
        classes = op.Div(places, points)
        zero, missing = constant(0, np.float32), constant(-1, np.int64)
        return found, op.Where(op.Greater(found, zero), classes, missing), op.Mod(places, points)

    return {torch.ops.limbeck.suppress.default: suppressed}
