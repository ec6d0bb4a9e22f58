"""Losses of detectors: focal loss, and generalised IoU from corners."""

from functools import partial

import numpy as np
import torch
from scipy import special

from limbeck import losses
from limbeck.testing import check_loss


def sigmoid_focal(student, labels, alpha=0.25, gamma=2.0):
    own = np.eye(student.shape[1] + 1)[labels][:, :-1]  # the label -1 is the last row
    p = special.expit(student)
    q, weight = np.where(own, p, 1 - p), np.where(own, alpha, 1 - alpha)
    return -(weight * (1 - q) ** gamma * np.log(q)).sum(1)


def corners(distances):
    return distances * [-1, -1, 1, 1]


def area(boxes):
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def giou(student, teacher):
    a, b = corners(student), corners(teacher)
    low, high = np.maximum(a, b), np.minimum(a, b)
    overlap = area(np.concatenate([low[:, :2], high[:, 2:]], axis=1))
    hull = area(np.concatenate([high[:, :2], low[:, 2:]], axis=1))
    union = area(a) + area(b) - overlap
    return 1 - overlap / union + (hull - union) / hull


def boxes(generator, scale):
    return tuple(
        scale * (0.1 + torch.rand(6, 4, generator=generator, dtype=torch.float64)) for _ in range(2)
    )


def logits_and_background(generator, scale):
    logits = scale * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([0, -1, 4, 2, -1, 1])


# Independent classes: a constant on all logits is another prediction.
of_classes = partial(check_loss, kind="hard_label", without=[8])

TRIALS = {
    "giou": [partial(check_loss, losses.giou, kind="feature", reference=giou, draw=boxes)],
    "sigmoid_focal": [
        partial(of_classes, losses.sigmoid_focal, reference=sigmoid_focal),
        partial(
            of_classes,
            partial(losses.sigmoid_focal, alpha=0.5, gamma=0.5),
            reference=partial(sigmoid_focal, alpha=0.5, gamma=0.5),
            draw=logits_and_background,
        ),
    ],
}
