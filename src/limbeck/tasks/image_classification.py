"""Image classification: an element is an image."""

from __future__ import annotations

from limbeck.tasks._base import IMAGE_INPUTS
from limbeck.tasks._classification import Classification


class ImageClassification(Classification):
    """Classification of images.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> task = ImageClassification(classes=("cat", "dog"))
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> batch = {"image": torch.zeros(3, 1, 2, 2), "labels": torch.tensor([0, 1, 1])}
        >>> task.loss(task.respond(model, batch))["logits"].shape
        torch.Size([3])
    """

    name = "image_classification"
    inputs = IMAGE_INPUTS
