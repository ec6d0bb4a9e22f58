"""What tasks with one label a sample share: the sample is the unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.tasks.task import Batch, Response

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from limbeck.taps import Taps


def weights(batch: Batch) -> Tensor:
    """Count every sample once, `[n]`."""
    return torch.ones(len(batch["label"]), device=batch["label"].device)


def response(outputs: dict[str, Tensor], batch: Batch, taps: Taps | None) -> Response:
    """Wrap a model's outputs whose rows are already units, in the order of the batch."""
    label = batch["label"]
    mask = batch.get("attention_mask")
    return Response(
        outputs=outputs,
        labels=label,
        weights=weights(batch),
        sample_of=torch.arange(len(label), device=label.device),
        taps={} if taps is None else taps.take(),
        index=batch.get("index"),
        mask=None if mask is None else mask.bool(),
    )


def top_1(classes: int) -> MetricCollection:
    """Make top-1 accuracy over all samples."""
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassAccuracy

    return MetricCollection({"accuracy": MulticlassAccuracy(num_classes=classes, average="micro")})
