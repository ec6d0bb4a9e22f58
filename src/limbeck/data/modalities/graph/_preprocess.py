"""Preprocessing of nodes: features of their columns, scaled, and the neighbourhood of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import Field

from limbeck.data.modalities.graph._graph import Graph, Node, join
from limbeck.data.preprocess import (
    Divisor,
    Named,
    Preprocess,
    Target,
    parse_record,
    require_columns,
)
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_HOPS = 10
SMALLEST = 1e-12
"""The smallest divisor of a row of features."""

Hops = Annotated[int, Field(ge=0, le=MOST_HOPS)]
Scaling: TypeAlias = Literal["none", "l1", "standard"]


@dataclass(frozen=True)
class NodeColumn:
    """A column of features: a number per node, or a list of equal length."""

    name: str
    width: Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class GraphPreprocess(Preprocess):
    """Preprocessing of a node: from its features, and those of its neighbours, to model inputs.

    Attributes:
        features: The columns of features, in order.
        hops: The hops of the neighbourhood that a model gets.
        scaling: `l1` divides a node's features by the sum of their sizes; `standard` subtracts the
            mean of each and divides by its deviation; `none` leaves them.
        mean: The mean of each feature over the training nodes, for `standard`.
        std: Its standard deviation; 1 for a constant one.
        classes: The class names, in the order of the outputs.
        targets: None.
    """

    features: tuple[NodeColumn, ...]
    hops: Hops
    scaling: Scaling = "none"
    mean: tuple[float, ...] = ()
    std: tuple[Divisor, ...] = ()
    kind: Literal["graph"] = "graph"
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    sample_axes: ClassVar[tuple[int, ...]] = (1,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns of features."""
        return tuple(one.name for one in self.features)

    @property
    def width(self) -> int:
        """Return the number of features per node."""
        return sum(one.width for one in self.features)

    def model_inputs(self) -> dict[str, int]:
        """Return the number of features per node, and of hops."""
        return {"node_features": self.width, "hops": self.hops}

    def scale(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Scale features `[nodes, width]`.

        Example:
            >>> prepare = GraphPreprocess((NodeColumn("words", 2),), 1, "l1")
            >>> prepare.scale(np.array([[1.0, 3.0], [0.0, 0.0]])).tolist()
            [[0.25, 0.75], [0.0, 0.0]]
        """
        values = values.astype(np.float64)
        if self.scaling == "l1":
            values = values / np.maximum(np.abs(values).sum(axis=1, keepdims=True), SMALLEST)
        if self.scaling == "standard":
            values = (values - np.array(self.mean)) / np.array(self.std)
        return values.astype(np.float32)

    def __call__(self, samples: Sequence[Node]) -> dict[str, NDArray[Any]]:
        """Convert nodes to model inputs: the union of their neighbourhoods, see `Graph`."""
        return join(samples, self.hops)

    def graph(self, value: Mapping[str, Any], *, where: str = "graph") -> Graph:
        """Build a graph, whose `nodes` are inputs of a student.

        Args:
            value: Each column of features, `[nodes]` or `[nodes, width]`; `edges`, the positions of
                two nodes each, `[edges, 2]`, in any direction; and `degrees`, the numbers of
                neighbours, `[nodes]`, if the graph is only a part of a larger one.
            where: The name of the graph in messages.

        Raises:
            InputError: A column is missing or has another width, a feature is not finite, or an
                edge names a node that does not exist.

        Example:
            >>> prepare = GraphPreprocess((NodeColumn("words", 2),), 1)
            >>> graph = prepare.graph({"words": [[1, 0], [0, 1]], "edges": [[0, 1]]})
            >>> prepare(graph.nodes([1]))["features"].tolist()
            [[0.0, 1.0], [1.0, 0.0]]
        """
        require_columns(value, self.columns, where=where)
        problems: list[Problem] = []
        parts = []
        for column in self.features:
            found = _numbers(value[column.name])
            rows = 0 if found is None or found.ndim == 0 else len(found)
            if found is None or not rows or found.size != rows * column.width:
                given = "no numbers" if found is None else f"an array {list(found.shape)}"
                allowed = f"{column.width} numbers per node"
                problems.append(Problem(f"{where}, {column.name}", given, allowed))
            elif not np.isfinite(found).all():
                row = int(np.flatnonzero(~np.isfinite(found.reshape(rows, -1)).all(axis=1))[0])
                given = f"NaN or infinity in node {row}"
                problems.append(Problem(f"{where}, {column.name}", given, "finite numbers"))
            else:
                parts.append(found.reshape(rows, column.width))
        if not problems and len({len(part) for part in parts}) > 1:
            given = f"{', '.join(str(len(part)) for part in parts)} nodes"
            problems.append(Problem(where, given, "as many in every column of features"))
        if problems:
            raise InputError(*problems)
        count = len(parts[0])
        edges = _edges(value.get("edges", ()), count, where=f"{where}, edges")
        degrees: NDArray[np.int64] | None = None
        if value.get("degrees") is not None:
            stated = _numbers(value["degrees"])
            fits = stated is not None and stated.shape == (count,)
            if stated is None or not fits or not ((stated >= 0) & (stated % 1 == 0)).all():
                allowed = f"{count} whole numbers of at least 0, one per node"
                raise InputError(Problem(f"{where}, degrees", value["degrees"], allowed))
            degrees = stated.astype(np.int64)
        return Graph(self.scale(np.concatenate(parts, axis=1)), edges, degrees)

    def read(self, value: object, *, where: str) -> Node:
        """Return one node of a user: with its neighbourhood, or alone.

        Args:
            value: A node of a `graph`; or a mapping of a graph, as `graph` reads it, with the
                position of the `node` (default 0); or the features of one node without neighbours,
                as a row by column or one array.
            where: The name of the input in messages.

        Raises:
            InputError: The value is none of these.

        Example:
            >>> prepare = GraphPreprocess((NodeColumn("words", 2),), 1)
            >>> prepare.read(np.array([0.0, 1.0]), where="input").graph.features.tolist()
            [[0.0, 1.0]]
        """
        if isinstance(value, Node):
            return value
        if not isinstance(value, Mapping):
            row = _numbers(value)
            if row is None or row.shape != (self.width,):
                given = value if row is None else f"an array {list(row.shape)}"
                allowed = f"{self.width} features of a node, or a mapping of a graph"
                raise InputError(Problem(where, given, allowed))
            ends = np.cumsum([one.width for one in self.features])[:-1]
            cells = zip(self.columns, np.split(row, ends), strict=True)
            return Node(self.graph({name: cell[None] for name, cell in cells}, where=where), 0)
        if "edges" not in value:
            require_columns(value, self.columns, where=where)
            cells_of_one = {name: [value[name]] for name in self.columns}
            return Node(self.graph(cells_of_one, where=where), 0)
        graph = self.graph(value, where=where)
        number = value.get("node", 0)
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise InputError(Problem(f"{where}, node", number, "the position of a node"))
        if not 0 <= number < len(graph):
            raise InputError(Problem(f"{where}, node", number, f"0 to {len(graph) - 1}"))
        return Node(graph, int(number))

    def require(self, value: object, reads: Callable[[str], bool], *, where: str) -> None:
        """Check that a node comes with its edges, if the model reads edges."""
        if isinstance(value, Node) or not reads("edges"):
            return
        if not (isinstance(value, Mapping) and value.get("edges") is not None):
            allowed = "a mapping of a graph with edges, since the student reads edges"
            fix = "A node without neighbours has `edges: []`, and a list of one per column."
            raise InputError(Problem(where, "a node without edges", allowed, fix))

    def named(self, argument: str, *, row_files: Sequence[str]) -> list[Named]:
        """Return the node of a JSON object."""
        if argument.lstrip().startswith("{"):
            return [("node", parse_record(argument))]
        endings = ", ".join(end for end in row_files if end != ".txt")
        allowed = f"a node as a JSON object, a file that ends in {endings}, or - for standard input"
        raise InputError(Problem("INPUTS", argument, allowed))

    def of_line(self, line: str) -> Any:
        """Return the node of a line, a JSON object or a list."""
        found = parse_record(line)
        return np.array(found) if isinstance(found, list) else found


def _numbers(value: object) -> NDArray[np.float64] | None:
    """Return numbers as an array; None if they are none."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _edges(value: object, count: int, *, where: str) -> NDArray[np.int64]:
    """Return edges as positions, int64 `[edges, 2]`."""
    found = _numbers(value)
    allowed = "the positions of two nodes each, [edges, 2]"
    if found is None or (found.size and (found.ndim != 2 or found.shape[1] != 2)):
        given = value if found is None else f"an array {list(found.shape)}"
        raise InputError(Problem(where, given, allowed))
    found = found.reshape(-1, 2)
    wrong = np.flatnonzero(~((found >= 0) & (found < count) & (found % 1 == 0)).all(axis=1))
    if len(wrong):
        given = f"{found[wrong[0]].tolist()} in row {wrong[0]} ({len(wrong)} such rows)"
        raise InputError(Problem(where, given, f"positions from 0 to {count - 1}"))
    return found.astype(np.int64)
