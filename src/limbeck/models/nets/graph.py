"""Nets for nodes of a graph: a graph convolutional network, and a perceptron of the features alone.

Both take `features [nodes, node_features]`, `edges [2, edges]` as (source, target) positions,
`degrees [nodes]`, the numbers of neighbours in the whole graph, and `nodes [n]`, the positions of
the nodes that are predicted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["gcn", "node_mlp"]


class GraphConvolution(nn.Module):
    """A graph convolution with symmetric normalisation and self-loops."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, x: Tensor, edges: Tensor, scale: Tensor) -> Tensor:
        """Return `[nodes, outputs]`; `scale [nodes, 1]` is one over the root of degree plus 1."""
        hidden = self.linear(x) * scale
        source, target = edges[0], edges[1]
        # The node's own row is the self-loop.
        summed = hidden.index_add(0, target, hidden.index_select(0, source))
        return summed * scale + self.bias


class GCN(nn.Module):
    """Graph convolutions with ReLU and dropout between them."""

    def __init__(self, widths: list[int], dropout: float) -> None:
        super().__init__()
        layers = range(len(widths) - 1)
        self.convolutions = nn.ModuleList(
            [GraphConvolution(widths[at], widths[at + 1]) for at in layers]
        )
        self.dropout = dropout

    def forward(self, features: Tensor, edges: Tensor, degrees: Tensor, nodes: Tensor) -> Tensor:
        """Return the logits `[n, classes]` of the nodes."""
        scale = (degrees + 1).to(features.dtype).rsqrt().unsqueeze(-1)
        x = features
        for number, convolution in enumerate(self.convolutions):
            x = F.relu(x) if number else x
            x = convolution(F.dropout(x, self.dropout, self.training), edges, scale)
        return x.index_select(0, nodes)


class NodeMLP(nn.Module):
    """A multilayer perceptron of the nodes' own features; it needs no edges."""

    def __init__(self, widths: list[int], dropout: float) -> None:
        super().__init__()
        layers = range(len(widths) - 1)
        self.layers = nn.ModuleList([nn.Linear(widths[at], widths[at + 1]) for at in layers])
        self.dropout = dropout

    def forward(
        self,
        features: Tensor,
        edges: Tensor | None = None,
        degrees: Tensor | None = None,
        nodes: Tensor | None = None,
    ) -> Tensor:
        """Return the logits `[n, classes]` of the nodes, of all by default."""
        x = features if nodes is None else features.index_select(0, nodes)
        for number, layer in enumerate(self.layers):
            x = F.relu(x) if number else x
            x = layer(F.dropout(x, self.dropout, self.training))
        return x


def _widths(classes: int, node_features: int, width: int, depth: int) -> list[int]:
    if width < 1 or depth < 1:
        raise ValueError(f"width {width}, depth {depth}; allowed: both above 0")
    return [node_features, *[width] * (depth - 1), classes]


def gcn(
    classes: int,
    node_features: int,
    hops: int,
    *,
    width: int = 64,
    depth: int = 2,
    dropout: float = 0.5,
) -> nn.Module:
    r"""Build a graph convolutional network.

    Each layer computes

    $$\hat D^{-1/2} (A + I) \hat D^{-1/2} X W + b$$

    with the degrees of the whole graph, so that a node's neighbourhood gives what the whole graph
    gives.

    Args:
        classes: The number of logits.
        node_features: The number of features per node.
        hops: The hops of the neighbourhoods in a batch; at least the depth is needed.
        width: The width of every hidden layer.
        depth: The number of graph convolutions.
        dropout: The share of each layer's inputs that training drops.

    Raises:
        ValueError: The width or the depth is <= 0, or the depth is above the number of hops.

    Example:
        >>> net = gcn(7, 1433, 2, width=16)
        >>> sum(parameter.numel() for parameter in net.parameters())
        23063

    Source: Kipf and Welling 2017, "Semi-supervised classification with graph convolutional
    networks".
    """
    if depth > hops:
        raise ValueError(f"depth {depth} with data.graph.hops {hops}; allowed: at most {hops}")
    return GCN(_widths(classes, node_features, width, depth), dropout)


def node_mlp(
    classes: int, node_features: int, *, width: int = 64, depth: int = 2, dropout: float = 0.5
) -> nn.Module:
    """Build a perceptron that classifies a node by its features, without its neighbours.

    Args:
        classes: The number of logits.
        node_features: The number of features per node.
        width: The width of every hidden layer.
        depth: The number of linear layers; 1 is logistic regression.
        dropout: The share of each layer's inputs that training drops.

    Raises:
        ValueError: The width or the depth is <= 0.

    Example:
        >>> sum(parameter.numel() for parameter in node_mlp(7, 1433, width=16).parameters())
        23063

    Source: Zhang et al. 2022, "Graph-less neural networks: teaching old MLPs new tricks via
    distillation".
    """
    return NodeMLP(_widths(classes, node_features, width, depth), dropout)
