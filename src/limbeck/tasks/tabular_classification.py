"""Tabular classification: an element is a table row."""

from __future__ import annotations

from limbeck.tasks._base import TABLE_INPUTS
from limbeck.tasks._classification import Classification


class TabularClassification(Classification):
    """Classification of table rows.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> task = TabularClassification(classes=("stays", "leaves"))
        >>> model = nn.Linear(4, 2)
        >>> batch = {"features": torch.zeros(3, 4), "labels": torch.tensor([0, 1, 1])}
        >>> task.loss(task.respond(model, batch))["logits"].shape
        torch.Size([3])
    """

    name = "tabular_classification"
    inputs = TABLE_INPUTS
