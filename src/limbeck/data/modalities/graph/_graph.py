"""An undirected graph with features of its nodes, and the neighbourhoods of some nodes in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Inputs = dict[str, "NDArray[Any]"]


@dataclass(frozen=True, eq=False)
class Node:
    """One node of a graph: a sample."""

    graph: Graph
    number: int


class Graph:
    """An undirected graph, its edges held by node.

    Args:
        features: The prepared features, float32 `[nodes, width]`.
        edges: The two nodes of each edge, int64 `[edges, 2]`, in either direction. Self-loops and
            repeated edges are dropped.
        degrees: The number of neighbours of each node, `[nodes]`, if the edges are only a part of
            a larger graph; by default that in the edges.

    Attributes:
        degrees: The number of neighbours of each node, int64 `[nodes]`.
        loops: The number of self-loops that were dropped.
        repeated: The number of repeated edges that were dropped.

    Example:
        >>> graph = Graph(np.eye(3, dtype=np.float32), np.array([[0, 1], [1, 0], [2, 1]]))
        >>> graph.degrees.tolist(), graph.repeated
        ([1, 2, 1], 1)
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        edges: NDArray[np.int64],
        degrees: NDArray[np.int64] | None = None,
    ) -> None:
        count = len(features)
        between = edges[edges[:, 0] != edges[:, 1]]
        once = np.unique(np.sort(between, axis=1) @ np.array([count, 1], dtype=np.int64))
        self.loops, self.repeated = len(edges) - len(between), len(between) - len(once)
        pairs = np.stack([once // max(count, 1), once % max(count, 1)], axis=1)
        both = np.concatenate([pairs, pairs[:, ::-1]])
        both = both[np.lexsort((both[:, 0], both[:, 1]))]
        self.features, self.edges = features, pairs
        self._neighbours = both[:, 0].copy()
        self._starts = np.searchsorted(both[:, 1], np.arange(count + 1))
        own = np.diff(self._starts).astype(np.int64)
        self.degrees = own if degrees is None else degrees

    def __len__(self) -> int:
        return len(self.features)

    def neighbours(self, node: int) -> NDArray[np.int64]:
        """Return the neighbours of a node, ascending."""
        return self._neighbours[self._starts[node] : self._starts[node + 1]]

    def nodes(self, numbers: Sequence[int] | NDArray[np.int64] | None = None) -> list[Node]:
        """Return some nodes as samples, by default all."""
        chosen = range(len(self)) if numbers is None else numbers
        return [Node(self, int(number)) for number in chosen]

    def within(self, count: int) -> Graph:
        """Return the graph of the first nodes alone, with their degrees in it."""
        return Graph(self.features[:count], self.edges[(self.edges < count).all(axis=1)])

    def neighbourhood(self, nodes: NDArray[np.int64], hops: int) -> Inputs:
        """Return the union of the neighbourhoods of some nodes, as inputs of a model.

        It has every node within the number of hops, and every edge into a node that is nearer, so
        that a model of as many graph convolutions computes for the nodes what it computes on the
        whole graph.

        Args:
            nodes: The nodes, int64 `[n]`.
            hops: The number of hops.

        Returns:
            `features` float32 `[m, width]`, the given nodes first; `edges` int64 `[2, edges]` as
            (source, target) positions among them, each direction an edge; `degrees` int64 `[m]`
            in the whole graph; and `nodes` int64 `[n]`, the positions of the given nodes.

        Example:
            >>> path = np.array([[0, 1], [1, 2], [2, 3]])
            >>> graph = Graph(np.arange(4, dtype=np.float32)[:, None], path)
            >>> found = graph.neighbourhood(np.array([0]), hops=1)
            >>> found["features"].ravel().tolist(), found["edges"].tolist()
            ([0.0, 1.0], [[1], [0]])
        """
        place = np.full(len(self), -1, dtype=np.int64)
        place[nodes[::-1]] = np.arange(len(nodes))[::-1]
        chosen, edges = [nodes], [np.empty((2, 0), dtype=np.int64)]
        frontier, start = nodes, 0
        for _ in range(hops):
            counts = self._starts[frontier + 1] - self._starts[frontier]
            ends = np.cumsum(counts)
            first = np.repeat(self._starts[frontier] - ends + counts, counts)
            sources = self._neighbours[first + np.arange(len(first))]
            targets = np.repeat(start + np.arange(len(frontier)), counts)
            start += len(frontier)
            frontier = np.unique(sources[place[sources] < 0])
            place[frontier] = start + np.arange(len(frontier))
            edges.append(np.stack([place[sources], targets]))
            chosen.append(frontier)
        every = np.concatenate(chosen)
        return {
            "features": self.features[every],
            "edges": np.concatenate(edges, axis=1),
            "degrees": self.degrees[every],
            "nodes": np.arange(len(nodes), dtype=np.int64),
        }


def join(samples: Sequence[Node], hops: int) -> Inputs:
    """Return the inputs of nodes of one or several graphs, in order.

    Example:
        >>> graph = Graph(np.eye(2, dtype=np.float32), np.array([[0, 1]]))
        >>> join([Node(graph, 1), Node(graph, 0)], hops=1)["edges"].tolist()
        [[1, 0], [0, 1]]
    """
    graphs = list({id(one.graph): one.graph for one in samples}.values())
    parts, nodes, offset = [], np.zeros(len(samples), dtype=np.int64), 0
    for graph in graphs:
        rows = [row for row, one in enumerate(samples) if one.graph is graph]
        found = graph.neighbourhood(np.array([samples[row].number for row in rows]), hops)
        nodes[rows] = offset + found["nodes"]
        parts.append({**found, "edges": found["edges"] + offset})
        offset += len(found["features"])
    return {
        "features": np.concatenate([part["features"] for part in parts]),
        "edges": np.concatenate([part["edges"] for part in parts], axis=1),
        "degrees": np.concatenate([part["degrees"] for part in parts]),
        "nodes": nodes,
    }
