"""The base class of tasks with one label per sample, where each sample is one element."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from limbeck import losses
from limbeck.tasks._model_output import run
from limbeck.tasks.task import Batch, Response

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from limbeck.taps import Taps


AUXILIARY_WEIGHT = 0.3
"""Weight of each auxiliary head in training (Szegedy et al. 2015, section 5)."""


class PerSample:
    """Classification of samples; subclasses add the model's inputs.

    Args:
        classes: The names of the classes.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes

    def _run(self, model: nn.Module, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        inputs = {name: batch[name] for name in self.inputs}
        return run(model, inputs, classes=len(self.classes))

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model on the task's inputs; return `logits [n, classes]`.

        The model may return the logits as a tensor or in a tuple, a mapping or a dataclass.

        Raises:
            InputError: No output of the model, or more than one, can be the logits.
        """
        return {"logits": self._run(model, batch)[0]}

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Run the model on a batch; elements are its samples, in order."""
        (logits, auxiliary), label = self._run(model, batch), batch["labels"]
        mask = batch.get("attention_mask")
        return Response(
            outputs={"logits": logits},
            labels=label,
            weights=self.weights(batch),
            sample_of=torch.arange(len(label), device=label.device),
            taps={} if taps is None else taps.take(),
            index=batch.get("index"),
            mask=None if mask is None else mask.bool(),
            auxiliary=auxiliary,
        )

    def weights(self, batch: Batch) -> Tensor:
        """Return weight 1 for every sample, `[n]`."""
        return torch.ones(len(batch["labels"]), device=batch["labels"].device)

    def loss(self, response: Response) -> Tensor:
        """Compute the cross-entropy with the labels, one value per sample.

        Auxiliary heads, active in training mode only, add theirs times 0.3.

        Source: Szegedy et al. 2015, "Going deeper with convolutions", section 5.
        """
        loss = losses.cross_entropy(response.outputs["logits"], response.labels)
        for logits in response.auxiliary:
            loss = loss + AUXILIARY_WEIGHT * losses.cross_entropy(logits, response.labels)
        return loss

    def metrics(self) -> MetricCollection:
        """Return top-1 accuracy over all samples."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        top_1 = MulticlassAccuracy(num_classes=len(self.classes), average="micro")
        return MetricCollection({"accuracy": top_1})
