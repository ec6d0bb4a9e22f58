"""Graphs: a sample is a node, with its features and its neighbourhood.

`preprocess.json` states the columns of features with their widths, the scaling, and the hops of the
neighbourhood. Edges are undirected. A batch has the union of its nodes' neighbourhoods, so that a
graph network computes the same as on the whole graph; `degrees` are those of the whole graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from limbeck.data.modalities.graph._preprocess import GraphPreprocess, Hops, Scaling
from limbeck.data.modality import Modality, Usage
from limbeck.data.settings import Section, Settings, duplicates
from limbeck.errors import Problem, RefusedError

if TYPE_CHECKING:
    from typing import Self

    from limbeck.data.loaded import Loaded
    from limbeck.data.preprocess import Preprocess
    from limbeck.data.spec import DataSpec
    from limbeck.data.split import Division, Prepared

CODE = """
with open("graph.json") as file:
    graph = json.load(file)  # {"features": [[0.5, ...], ...], "edges": [[0, 1], ...], "nodes": [0]}
features = np.array(graph["features"], dtype=np.float64)  # per node, as in prepare["features"]
if prepare["scaling"] == "l1":
    features = features / np.maximum(np.abs(features).sum(axis=1, keepdims=True), 1e-12)
if prepare["scaling"] == "standard":
    features = (features - np.array(prepare["mean"])) / np.array(prepare["std"])
features = features.astype(np.float32)
pairs = np.array(graph["edges"], dtype=np.int64).reshape(-1, 2)  # each once, of different nodes
edges = np.concatenate([pairs, pairs[:, ::-1]]).T
degrees = np.bincount(edges[1], minlength=len(features))  # in the whole graph
nodes = np.array(graph["nodes"], dtype=np.int64)  # the positions of the nodes to predict
"""


class GraphSpec(Section):
    """Settings of a graph, whose nodes are the rows of the source.

    Attributes:
        edges: The file of the edges: `.csv`, `.tsv`, `.parquet` or `.npz`; a relative path lies in
            the folder LIMBECK_DATA. Edges are undirected; self-loops and repeated ones are dropped.
        edge_columns: The two columns of the edge file that name the nodes, or the array of a
            `.npz` file; default: the first two columns, or the only array of two rows or columns.
        node: The column that names each node, as the edges do.
        features: The columns of features: numbers, or lists of numbers.
        hops: The hops of the neighbourhood that a batch has: as many as a net has graph layers.
        scaling: `l1`: a node's features are divided by the sum of their sizes; `standard`:
            standardised by mean and deviation over the training nodes; or `none`.
        setting: `transductive`: the graph of the training has all nodes, those of validation and
            test without their labels, and with `data.unlabelled` the teacher trains the student on
            them as well; `inductive`: it has neither these nodes nor their edges.
    """

    edges: str
    edge_columns: tuple[str, ...] = ()
    node: str = "node"
    features: tuple[str, ...] = ("features",)
    hops: Hops = 2
    scaling: Scaling = "none"
    setting: Literal["transductive", "inductive"] = "transductive"

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if repeated := duplicates(self.features):
            raise ValueError(f"features names {repeated} twice; allowed: each once")
        if not self.features:
            raise ValueError("features is empty; allowed: at least one column")
        if len(self.edge_columns) > 2:
            raise ValueError(f"edge_columns names {len(self.edge_columns)}; allowed: at most two")
        return self


class GraphKeys(Settings):
    """The keys of graphs.

    Attributes:
        graph: The edges and features; if given, the rows are the nodes of a graph.
    """

    graph: GraphSpec | None = None


class GraphModality(Modality[GraphKeys]):
    """The nodes of a graph."""

    name: ClassVar[str] = "graph"
    keys: ClassVar[type[Settings]] = GraphKeys
    preprocess: ClassVar[type[Preprocess]] = GraphPreprocess
    usage: ClassVar[Usage] = Usage(
        argument="nodes.jsonl",
        packages="numpy",
        code=CODE,
        inputs=("features", "edges", "degrees", "nodes"),
    )
    hint: ClassVar[str] = "data.graph names the columns of nodes."

    def _settings(self, spec: DataSpec) -> GraphSpec:
        found = self.of(spec).graph
        if found is None:
            raise RefusedError(Problem.missing("graph", "Name the file of the edges."))
        return found

    def check(self, spec: DataSpec) -> None:
        """Refuse splits by a column of groups or times."""
        if spec.split is not None:
            allowed = "nothing for a graph; `split_column` names the split of each node"
            raise RefusedError(Problem("split", ", ".join(spec.split.columns), allowed))

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the columns of the nodes' names and features."""
        settings = self._settings(spec)
        named = dict.fromkeys(settings.features, "data.graph.features")
        return {settings.node: "data.graph.node", **named}

    def arrange(self, spec: DataSpec, loaded: Loaded) -> Loaded:
        """Divide the nodes, and add those of validation and test, without labels, to training.

        Raises:
            InputError: A name of a node is missing or occurs twice.
        """
        from limbeck.data.modalities.graph._samples import arrange

        return arrange(self._settings(spec), spec, loaded)

    def prepare(
        self, spec: DataSpec, loaded: Loaded, division: Division, *, workdir: Path
    ) -> Prepared:
        """Build splits of nodes; statistics are those of the training nodes."""
        from limbeck.data.modalities.graph._samples import prepare

        return prepare(self._settings(spec), loaded, division)

    def files(self, spec: DataSpec, loaded: Loaded) -> dict[str, str]:
        """Return the hash of the edge file."""
        from limbeck.core import fingerprint
        from limbeck.data.modalities.graph._samples import edge_file

        settings = self._settings(spec)
        return {settings.edges: fingerprint.of_file(edge_file(settings.edges))}


modality = GraphModality()
