"""The contract of a task, and the answer of a model that every loss sees."""

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
    """What a model answered to a batch, flattened to units.

    A unit is one row that one distribution describes: an image, a token, a box.

    Attributes:
        outputs: The model's answers by name, each `[units, ...]`; usually only `logits`.
        labels: The right answers, `[units]`.
        weights: How much each unit counts, `[units]`; 0 leaves a unit out.
        sample_of: Which sample of the batch each unit came from, `[units]`.
        taps: What tapped modules put out, by path, `[samples, ...]`.
        hidden: For large heads, what goes into the head, `[units, dimension]`.
        head: For large heads, the head itself.
        index: Which sample of the data set each sample is, `[samples]`; None if nobody said.
        mask: Which positions of a sequence hold content, `[samples, positions]`; None without
            padding.
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
    """What a batch means to a model: one file a task, one class a file.

    Attributes:
        name: The task's name in a recipe.
        inputs: The names of the tensors of a batch that go into a model, in order.
        classes: The names of the classes.
    """

    name: str
    inputs: tuple[str, ...]
    classes: tuple[str, ...]

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model; this is also what an export holds."""
        ...

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Run the model and flatten its answers to units, once."""
        ...

    def weights(self, batch: Batch) -> Tensor:
        """Say how much each unit of a batch counts, `[units]`, before any model has run."""
        ...

    def loss(self, response: Response) -> Tensor:
        """Compare with the labels: one value a unit, `[units]`."""
        ...

    def metrics(self) -> MetricCollection:
        """Make the metrics by which validation chooses; the first one decides, higher is better."""
        ...
