"""What tasks with one label a sample share: the sample is the unit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from limbeck import losses
from limbeck.tasks.task import Batch, Response

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from limbeck.taps import Taps


class PerSample(ABC):
    """Say which class a sample belongs to; a task adds what its model takes.

    Args:
        classes: The names of the classes.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes

    @abstractmethod
    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model: the task's inputs to `logits [n, classes]`."""

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Answer a batch; units are its samples, in order."""
        outputs, label = self.outputs(model, batch), batch["label"]
        mask = batch.get("attention_mask")
        return Response(
            outputs=outputs,
            labels=label,
            weights=self.weights(batch),
            sample_of=torch.arange(len(label), device=label.device),
            taps={} if taps is None else taps.take(),
            index=batch.get("index"),
            mask=None if mask is None else mask.bool(),
        )

    def weights(self, batch: Batch) -> Tensor:
        """Count every sample once, `[n]`."""
        return torch.ones(len(batch["label"]), device=batch["label"].device)

    def loss(self, response: Response) -> Tensor:
        """Cross-entropy with the labels, one value a sample."""
        return losses.cross_entropy(response.outputs["logits"], response.labels)

    def metrics(self) -> MetricCollection:
        """Make top-1 accuracy over all samples."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        top_1 = MulticlassAccuracy(num_classes=len(self.classes), average="micro")
        return MetricCollection({"accuracy": top_1})
