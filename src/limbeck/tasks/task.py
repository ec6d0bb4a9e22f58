"""The task protocol, the base class of classification tasks, and the output that losses receive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor, nn

from limbeck import losses
from limbeck.errors import InputError, Problem
from limbeck.tasks._model_output import run

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from limbeck.taps import Taps

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Response:
    """The output of a model for a batch, flattened to elements.

    An element is one item with one predicted distribution: an image, a token, a pixel, a box.

    Attributes:
        outputs: The model's outputs by name, each `[elements, ...]`; usually only `logits`.
        labels: The labels, `[elements]`.
        weights: The weight per element, `[elements]`; 0 excludes an element.
        sample_of: The index of each element's sample in the batch, `[elements]`.
        taps: The outputs of tapped modules, by path, `[samples, ...]`.
        hidden: For large heads, the input of the head, `[elements, dimension]`.
        head: For large heads, the head itself.
        index: The index of each sample in the data set, `[samples]`; None if unknown.
        mask: The mask of non-padding positions, `[samples, positions]`; None without padding.
        auxiliary: The logits of auxiliary heads, `[elements, classes]` each; in training mode only.
    """

    outputs: dict[str, Tensor]
    labels: Tensor
    weights: Tensor
    sample_of: Tensor
    taps: dict[str, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None
    head: nn.Module | None = None
    index: Tensor | None = None
    mask: Tensor | None = None
    auxiliary: tuple[Tensor, ...] = ()


class Task(Protocol):
    """The interpretation of a batch for a model: one class and file per task.

    Attributes:
        name: The task's name in a recipe.
        inputs: The names of the batch tensors that are model inputs, in order.
        classes: The names of the classes.
    """

    name: str
    inputs: tuple[str, ...]
    classes: tuple[str, ...]

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model; exports have these outputs."""
        ...

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Run the model once and flatten its outputs to elements."""
        ...

    def weights(self, batch: Batch) -> Tensor:
        """Return the weight of each element of a batch, `[elements]`, before any model has run."""
        ...

    def loss(self, response: Response) -> Tensor:
        """Compute the loss against the labels: one value per element, `[elements]`."""
        ...

    def metrics(self) -> MetricCollection:
        """Return the validation metrics; the first one selects the best epoch, higher is better."""
        ...


AUXILIARY_WEIGHT = 0.3
"""Weight of each auxiliary head in training (Szegedy et al. 2015, section 5)."""


class PerSample:
    """Classification with one label per sample, each sample one element; subclasses add the inputs.

    Args:
        classes: The names of the classes.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes

    def _take(self, batch: Batch, *names: str) -> dict[str, Tensor]:
        # The error is caught, since a check beforehand would cost time in every step.
        try:
            return {name: batch[name] for name in names}
        except (KeyError, IndexError, TypeError) as error:
            given = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
            allowed = f"a mapping with {', '.join((*self.inputs, 'labels'))}"
            raise InputError(Problem("batch", given, allowed)) from error

    def _run(self, model: nn.Module, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        return run(model, self._take(batch, *self.inputs), classes=len(self.classes))

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model on the task's inputs; return `logits [n, classes]`.

        Raises:
            InputError: The batch lacks an input; or no output of the model, or more than one, can
                be the logits.
        """
        return {"logits": self._run(model, batch)[0]}

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Run the model on a batch; elements are its samples, in order.

        Raises:
            InputError: As for `outputs`, or the batch lacks `labels`.
        """
        (logits, auxiliary), labels = self._run(model, batch), self._take(batch, "labels")["labels"]
        mask = batch.get("attention_mask")
        return Response(
            outputs={"logits": logits},
            labels=labels,
            weights=self.weights(batch),
            sample_of=torch.arange(len(labels), device=labels.device),
            taps={} if taps is None else taps.take(),
            index=batch.get("index"),
            mask=None if mask is None else mask.bool(),
            auxiliary=auxiliary,
        )

    def weights(self, batch: Batch) -> Tensor:
        """Return weight 1 for every sample, `[n]`."""
        labels = self._take(batch, "labels")["labels"]
        return torch.ones(len(labels), device=labels.device)

    def loss(self, response: Response) -> Tensor:
        """Compute the cross-entropy with the labels, one value per sample.

        Each auxiliary head, active in training mode only, adds its cross-entropy times 0.3.

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
