"""Losses of dense object detectors: focal loss of classes, and generalised IoU of boxes."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from limbeck.core.numbers import is_number
from limbeck.core.tensors import precise, precise_pair
from limbeck.errors import InputError, Problem
from limbeck.losses._inputs import (
    check_axes,
    check_labels,
    check_logits,
    check_same_shape,
    check_weights,
    out_of_range,
)
from limbeck.losses._kinds import MINIMUM_LOGIT
from limbeck.losses._types import Distances, Labels, Logits, PerElement

BACKGROUND = -1
"""The label of an element without an object."""

_LEAST_AREA = 1e-7  # of a union or hull: a smaller one would have an infinite gradient


def sigmoid_focal(
    student: Logits,
    labels: Labels,
    *,
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.25,
    gamma: NonNegativeFloat = 2.0,
) -> PerElement:
    r"""Compute the focal loss of independent classes, summed over the classes.

    $$-\sum_c \alpha_c (1 - q_c)^\gamma \log q_c, \quad
      q_c, \alpha_c = \begin{cases} \sigma(z_c), \alpha & c = y \\
      1 - \sigma(z_c), 1 - \alpha & \text{otherwise} \end{cases}$$

    The factor (1 − q)^γ reduces the weight of elements that are classified well, most of which are
    background.

    Args:
        student: Logits z, `[elements, classes]`.
        labels: The labels y, `[elements]`; −1 for an element without an object.
        alpha: α, the weight of the label's class, in [0, 1].
        gamma: γ, at least 0; 0 is the weighted binary cross-entropy.

    Returns:
        One value per element in nats, `[elements]`, never negative.

    Raises:
        InputError: A wrong shape or dtype, labels out of range (checked on a CPU), or a setting out
            of range.

    Example:
        >>> sigmoid_focal(torch.zeros(2, 2), torch.tensor([0, -1]))
        tensor([0.1733, 0.2599])

    Source: Lin et al. 2017, "Focal loss for dense object detection".
    """
    check_logits(student, where="sigmoid_focal.student")
    check_labels(labels, student, where="sigmoid_focal.labels")
    check_weights("sigmoid_focal", gamma=gamma)
    if not (is_number(alpha) and 0 <= alpha <= 1):
        raise InputError(Problem("sigmoid_focal.alpha", alpha, "a number in [0, 1]", "Try 0.25."))
    classes = student.shape[1]
    if invalid := out_of_range(labels + 1, classes + 1):
        allowed = f"labels from 0 to {classes - 1}, or {BACKGROUND} without an object"
        raise InputError(Problem("sigmoid_focal.labels", invalid[0] - 1, allowed))
    logits = precise(student).clamp(MINIMUM_LOGIT, -MINIMUM_LOGIT)
    own = labels.unsqueeze(-1) == torch.arange(classes, device=labels.device)
    signed = torch.where(own, logits, -logits)
    # (1 - q)^γ through its logarithm has finite derivatives for every γ.
    factor = (gamma * F.logsigmoid(-signed)).exp()
    weight = torch.where(own, alpha, 1 - alpha).to(logits.dtype)
    return (weight * factor * -F.logsigmoid(signed)).sum(-1)


def giou(student: Distances, teacher: Distances) -> PerElement:
    r"""Compute the generalised IoU loss of boxes that contain a common point.

    $$1 - \frac{|A \cap B|}{|A \cup B|} + \frac{|H| - |A \cup B|}{|H|}$$

    with H the smallest box around A and B. A box is given by its distances from the point to its
    left, top, right and bottom edges, as dense detectors predict it; a box (x1, y1, x2, y2) has the
    distances (−x1, −y1, x2, y2) from the origin. Against labels it is the regression loss, against
    a teacher the distillation of boxes.

    Args:
        student: Distances, `[elements, 4]`, in any unit.
        teacher: Distances of the other boxes, `[elements, 4]`, in the same unit.

    Returns:
        One value per element, `[elements]`, from 0 to 2.

    Raises:
        InputError: A wrong shape or dtype.

    Example:
        >>> giou(torch.tensor([[1.0, 1.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 1.0, 3.0]]))
        tensor([0.5000])

    Source: Rezatofighi et al. 2019; for distillation Yang et al. 2023, "Bridging cross-task
    protocol inconsistency for distillation in dense object detection".
    """
    for side, boxes in (("student", student), ("teacher", teacher)):
        allowed = "distances [elements, 4]: left, top, right, bottom"
        check_axes(boxes, (2,), where=f"giou.{side}", allowed=allowed)
        if boxes.shape[1] != 4:
            raise InputError(Problem(f"giou.{side}", tuple(boxes.shape), allowed))
    check_same_shape(student, teacher, where="giou.teacher")
    one, two = precise_pair(student, teacher)
    overlap = _area(torch.minimum(one, two))
    union = _area(one) + _area(two) - overlap
    hull = _area(torch.maximum(one, two))
    iou = overlap / union.clamp_min(_LEAST_AREA)
    return 1 - iou + (hull - union) / hull.clamp_min(_LEAST_AREA)


def _area(distances: Tensor) -> Tensor:
    """Return the areas of boxes, `[elements]`; a negative width or height counts as 0."""
    left, top, right, bottom = distances.unbind(-1)
    return (left + right).clamp_min(0) * (top + bottom).clamp_min(0)
