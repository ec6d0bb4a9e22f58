"""Ordinal classification of table rows: an element is a table row."""

from __future__ import annotations

from limbeck.tasks._base import TABLE_INPUTS
from limbeck.tasks._ordinal import Ordinal


class TabularOrdinal(Ordinal):
    """Classification of table rows by classes in an order.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> task = TabularOrdinal(classes=("low", "middle", "high"))
        >>> batch = {"features": torch.zeros(3, 4), "labels": torch.tensor([0, 2, 1])}
        >>> task.loss(task.respond(nn.Linear(4, 3), batch))["logits"].shape
        torch.Size([3])
    """

    name = "tabular_ordinal"
    inputs = TABLE_INPUTS
