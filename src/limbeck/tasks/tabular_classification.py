"""One row of a table, one class: a unit is a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from limbeck import losses
from limbeck.tasks import _per_sample
from limbeck.tasks.task import Batch, Response

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from limbeck.taps import Taps


class TabularClassification:
    """Say which class a row of a table belongs to.

    Args:
        classes: The names of the classes.

    Example:
        >>> import torch
        >>> task = TabularClassification(classes=("stays", "leaves"))
        >>> model = nn.Linear(4, 2)
        >>> batch = {"features": torch.zeros(3, 4), "label": torch.tensor([0, 1, 1])}
        >>> task.loss(task.respond(model, batch)).shape
        torch.Size([3])
    """

    name = "tabular_classification"
    inputs = ("features",)

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model: `features [n, width]` to `logits [n, classes]`."""
        return {"logits": model(batch["features"])}

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Answer a batch; units are its rows, in order."""
        return _per_sample.response(self.outputs(model, batch), batch, taps)

    def weights(self, batch: Batch) -> Tensor:
        """Count every row once."""
        return _per_sample.weights(batch)

    def loss(self, response: Response) -> Tensor:
        """Cross-entropy with the labels, one value a row."""
        return losses.cross_entropy(response.outputs["logits"], response.labels)

    def metrics(self) -> MetricCollection:
        """Make top-1 accuracy over all samples."""
        return _per_sample.top_1(len(self.classes))
