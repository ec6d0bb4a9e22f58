"""One text, one class: a unit is a text, and padding never reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from limbeck import losses
from limbeck.tasks import _per_sample
from limbeck.tasks.task import Batch, Response

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from limbeck.taps import Taps


class TextClassification:
    """Say which class a text belongs to, with a transformers model whose head reads `[CLS]`.

    Args:
        classes: The names of the classes.
    """

    name = "text_classification"
    inputs = ("input_ids", "attention_mask")

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model: `input_ids` and `attention_mask [n, tokens]` to `logits [n, classes]`."""
        answer = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return {"logits": answer if isinstance(answer, Tensor) else answer.logits}

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Answer a batch; units are its texts, in order."""
        return _per_sample.response(self.outputs(model, batch), batch, taps)

    def weights(self, batch: Batch) -> Tensor:
        """Count every text once."""
        return _per_sample.weights(batch)

    def loss(self, response: Response) -> Tensor:
        """Cross-entropy with the labels, one value a text."""
        return losses.cross_entropy(response.outputs["logits"], response.labels)

    def metrics(self) -> MetricCollection:
        """Make top-1 accuracy over all samples."""
        return _per_sample.top_1(len(self.classes))
