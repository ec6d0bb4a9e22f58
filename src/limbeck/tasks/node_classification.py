"""Node classification: an element is a node of a graph."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from limbeck.tasks._classification import Classification

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from limbeck.taps import Taps
    from limbeck.tasks.task import Axes, Batch, Response


class NodeClassification(Classification):
    """Classification of the nodes of a graph, each with its neighbourhood.

    A batch has four inputs, each with axes of its own: `features [nodes, width]` of all nodes of
    the neighbourhoods, `edges [2, edges]` as (source, target) positions among them, `degrees
    [nodes]`, the numbers of neighbours in the whole graph, and `nodes [n]`, the positions of the
    samples. A model takes those that its `forward` names, and returns the logits of the samples.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Net(nn.Linear):
        ...     def forward(self, features, nodes):
        ...         return super().forward(features)[nodes]
        >>> task = NodeClassification(classes=("theory", "practice"))
        >>> batch = {
        ...     "features": torch.randn(5, 4),
        ...     "edges": torch.tensor([[3, 4], [0, 1]]),
        ...     "degrees": torch.tensor([1, 1, 0, 4, 2]),
        ...     "nodes": torch.tensor([0, 1]),
        ...     "labels": torch.tensor([1, 0]),
        ... }
        >>> task.loss(task.respond(Net(4, 2), batch))["logits"].shape
        torch.Size([2])
    """

    name: ClassVar[str] = "node_classification"
    inputs: ClassVar[Mapping[str, Axes]] = {
        "features": ("nodes",),
        "edges": (None, "edges"),
        "degrees": ("nodes",),
        "nodes": ("batch",),
    }

    def _response(
        self, values: Tensor, batch: Batch, taps: Taps | None, auxiliary: tuple[Tensor, ...]
    ) -> Response:
        """Build the response; features of all nodes become those of the samples."""
        response = super()._response(values, batch, taps, auxiliary)
        count, nodes = len(batch["features"]), batch["nodes"]
        if count == len(nodes):  # a sample each, in order
            return response
        kept = {
            path: one.index_select(0, nodes) if one.shape[0] == count else one
            for path, one in response.taps.items()
        }
        return replace(response, taps=kept)
