"""Multi-label classification of table rows: an element is a table row."""

from __future__ import annotations

from typing import ClassVar

from limbeck.tasks._base import TABLE_INPUTS
from limbeck.tasks._multilabel import Multilabel


class TabularMultilabel(Multilabel):
    """Multi-label classification of table rows: every label is present or absent by itself.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> task = TabularMultilabel(labels=("urgent", "private"))
        >>> batch = {"features": torch.zeros(3, 4), "labels": torch.ones(3, 2)}
        >>> task.loss(task.respond(nn.Linear(4, 2), batch))["logits"].shape
        torch.Size([3])
    """

    name: ClassVar[str] = "tabular_multilabel"
    inputs = TABLE_INPUTS
