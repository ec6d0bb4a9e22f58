"""The task protocol, and the model output that losses receive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from limbeck.taps import Taps

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Response:
    """The output of a model for a batch, flattened to elements.

    An element is one item with one predicted distribution: an image, a token, a pixel, a box.

    Attributes:
        outputs: The model's outputs by name, each `[units, ...]`; usually only `logits`.
        labels: The labels, `[units]`.
        weights: The weight per element, `[units]`; 0 excludes an element.
        sample_of: The index of each element's sample in the batch, `[units]`.
        taps: The outputs of tapped modules, by path, `[samples, ...]`.
        hidden: For large heads, the input of the head, `[units, dimension]`.
        head: For large heads, the head itself.
        index: The index of each sample in the data set, `[samples]`; None if unknown.
        mask: The mask of non-padding positions, `[samples, positions]`; None without padding.
        auxiliary: The logits of auxiliary heads, `[units, classes]` each; in training mode only.
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
        """Return the weight of each element of a batch, `[units]`, before any model has run."""
        ...

    def loss(self, response: Response) -> Tensor:
        """Compute the loss against the labels: one value per element, `[units]`."""
        ...

    def metrics(self) -> MetricCollection:
        """Return the validation metrics; the first one selects the best epoch, higher is better."""
        ...
