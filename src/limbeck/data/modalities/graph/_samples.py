"""Splits of the nodes of a graph: their names, features and edges, read and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow  # type: ignore[import-untyped]
import torch

from limbeck.data.columns import read_numbers
from limbeck.data.files import resolve
from limbeck.data.label import UNLABELLED, kind_of
from limbeck.data.labels.classes import kind as classes
from limbeck.data.modalities.graph._graph import Graph
from limbeck.data.modalities.graph._preprocess import GraphPreprocess, NodeColumn
from limbeck.data.sources import csv, npz, parquet
from limbeck.data.split import Division, Prepared, hash_of
from limbeck.data.stratify import split
from limbeck.errors import InputError, Problem, did_you_mean, gathering

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.loaded import Loaded
    from limbeck.data.modalities.graph import GraphSpec
    from limbeck.data.spec import DataSpec

TRAIN = "train"
OTHERS = ("validation", "test")
SHOWN = 5


def arrange(settings: GraphSpec, spec: DataSpec, loaded: Loaded) -> Loaded:
    """Divide the nodes into splits, and add nodes of the others to training, without labels.

    Raises:
        InputError: The name of a node is missing or occurs twice, or a label is invalid.
    """
    label, node = spec.columns.label, settings.node
    _check_names({name: _names(one, node, name) for name, one in loaded.splits.items()}, node)
    labels = kind_of(spec).read(spec, loaded)
    whole = spec.model_copy(update={"max_samples": {}})  # the graph keeps every node
    rows, notes = split(labels.rows, whole, by=labels.by)
    if (labels.rows[TRAIN] == UNLABELLED).any():
        notes = notes[:-1]  # on rows without a label, which are counted later
    splits = {name: loaded.splits[source].select(one) for name, (source, one) in rows.items()}
    train = splits[TRAIN]
    if settings.setting == "transductive":
        note = (
            "transductive: the features and edges of the validation and test nodes are part of the "
            "training graph, their labels are not"
        )
        if classes.of(spec).unlabelled:
            kept = [node, *settings.features, label, *filter(None, [spec.columns.weight])]
            splits[TRAIN] = _extended(train, [splits[name] for name in OTHERS], kept, label)
            note += "; the teacher's predictions of them train the student"
    else:
        note = (
            "inductive: the training graph has neither the validation and test nodes nor their "
            "edges; predictions of them read the whole graph"
        )
    files = dict.fromkeys(splits, loaded.files[TRAIN]) if loaded.files else {}
    files = {name: loaded.files.get(name, paths) for name, paths in files.items()}
    return replace(loaded, splits=splits, files=files, notes=(*loaded.notes, *notes, note))


def _extended(
    train: datasets.Dataset, others: Sequence[datasets.Dataset], columns: list[str], label: str
) -> datasets.Dataset:
    """Add the rows of other splits to the training rows, without their labels."""
    own = _table(train).select(columns)
    tables = [own]
    for one in others:
        table = _table(one).select([name for name in columns if name in one.column_names])
        empty = pyarrow.nulls(len(table), own.schema.field(label).type)
        table = table.set_column(table.schema.get_field_index(label), label, empty)
        for name in columns:
            if name not in table.column_names:  # the weight of a test row
                table = table.append_column(name, pyarrow.array(np.ones(len(table))))
        try:
            tables.append(table.select(columns).cast(own.schema))
        except pyarrow.ArrowException as error:
            allowed = "columns of the same types in every split"
            raise InputError(Problem("data.graph", str(error)[:300], allowed)) from error
    info = datasets.DatasetInfo(
        features=datasets.Features({name: train.features[name] for name in columns})
    )
    whole = pyarrow.concat_tables(tables).replace_schema_metadata(None)
    return datasets.Dataset(datasets.table.InMemoryTable(whole), info=info)


def _table(dataset: datasets.Dataset) -> Any:
    return dataset.with_format("arrow")[:]


def _names(dataset: datasets.Dataset, column: str, source: str) -> NDArray[np.str_]:
    """Return the names of a split's nodes, as texts."""
    cells = _table(dataset.select_columns([column])).column(column)
    return _texts(cells, f"data.graph.node ({column!r} in {source})")


def _texts(cells: Any, where: str) -> NDArray[np.str_]:
    """Return names as texts; whole numbers and texts of them are equal."""
    types, missing = pyarrow.types, int(cells.null_count)
    is_name = types.is_integer(cells.type) or types.is_string(cells.type)
    if missing or not (is_name or types.is_large_string(cells.type)):
        given = f"{missing} cells without a name" if missing else f"{cells.type}"
        raise InputError(Problem(where, given, "a whole number or a text in every row"))
    return np.array(cells.cast("string").to_pylist(), dtype=np.str_)


def _check_names(names: Mapping[str, NDArray[np.str_]], column: str) -> None:
    every = np.concatenate([*names.values()])
    found, counts = np.unique(every, return_counts=True)
    twice = found[counts > 1]
    if len(twice):
        shown = ", ".join(twice[:SHOWN]) + (", ..." if len(twice) > SHOWN else "")
        given = f"{shown} in two rows ({len(twice)} such nodes)"
        raise InputError(Problem(f"data.graph.node ({column!r})", given, "each node once"))


def edge_file(name: str) -> Path:
    """Return the path of the edge file.

    Raises:
        InputError: There is no such file.
    """
    try:
        [path] = resolve({"train": name})["train"]
    except InputError as error:
        problems = (replace(one, where="data.graph.edges") for one in error.problems)
        raise InputError(*problems) from error
    return path


def read_edges(settings: GraphSpec) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Read the names of both nodes of every edge.

    Raises:
        InputError: The file or a column is missing, or it is no file of edges.
    """
    path, where = edge_file(settings.edges), f"data.graph.edges ({settings.edges})"
    if path.suffix == ".npz":
        pairs = npz.pairs(path, settings.edge_columns, where=where)
        return pairs[:, 0].astype(np.str_), pairs[:, 1].astype(np.str_)
    suffixes = (*csv.SUFFIXES, *parquet.SUFFIXES, ".npz")
    if not path.name.lower().endswith(suffixes):
        allowed = f"a file that ends in {', '.join(suffixes)}"
        raise InputError(Problem("data.graph.edges", settings.edges, allowed))
    reader = parquet if path.name.lower().endswith(parquet.SUFFIXES) else csv
    try:
        table = reader.read(path)
    except InputError:
        raise
    except Exception as error:  # pyarrow's exceptions have no common base class
        fix = f"It could not be read: {type(error).__name__}: {str(error)[:300]}"
        raise InputError(Problem(where, "an invalid file", "a table of edges", fix)) from error
    columns = settings.edge_columns or tuple(table.column_names[:2])
    missing = [name for name in columns if name not in table.column_names]
    if missing or len(columns) != 2:
        given = ", ".join(missing or columns) or "no column"
        allowed = f"two of the columns {', '.join(table.column_names)}"
        hint = did_you_mean(missing[0], table.column_names) if missing else ""
        raise InputError(Problem("data.graph.edge_columns", given, allowed, hint))
    if isinstance(table, datasets.Dataset):
        table = _table(table)
    one, two = (_texts(table.column(name), f"{where}, {name}") for name in columns)
    return one, two


def _positions(settings: GraphSpec, names: NDArray[np.str_]) -> NDArray[np.int64]:
    """Return the edges as positions of their nodes, `[edges, 2]`."""
    order = np.argsort(names)
    ordered, ends = names[order], []
    problems = []
    for side, given in zip(("first", "second"), read_edges(settings), strict=True):
        place = np.minimum(np.searchsorted(ordered, given), len(names) - 1)
        unknown = np.flatnonzero(ordered[place] != given)
        if len(unknown):
            shown = f"{str(given[unknown[0]])!r} in edge {unknown[0]} ({len(unknown)} such edges)"
            allowed = f"names of the {len(names):,} nodes in the column {settings.node}"
            where = f"data.graph.edges ({settings.edges}), {side} node"
            problems.append(Problem(where, shown, allowed))
        ends.append(order[place])
    if problems:
        raise InputError(*problems)
    return np.stack(ends, axis=1).astype(np.int64)


def _read_features(dataset: datasets.Dataset, column: str, where: str) -> NDArray[np.float64]:
    """Read a column of numbers, or of lists of equal length, as `[nodes, width]`."""
    cells = _table(dataset.select_columns([column])).column(column).combine_chunks()
    if isinstance(cells, pyarrow.ChunkedArray):
        cells = pyarrow.concat_arrays(cells.chunks)
    types = pyarrow.types
    is_list = any(
        check(cells.type)
        for check in (types.is_list, types.is_large_list, types.is_fixed_size_list)
    )
    if not is_list:
        values = read_numbers(dataset, column, where=where)[:, None]
    else:
        lengths = cells.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        if len(set(lengths.tolist())) != 1 or not lengths[0]:
            given = f"lists of {lengths.min()} to {lengths.max()} numbers"
            raise InputError(Problem(where, given, "as many in every row, at least one"))
        flat = cells.flatten()
        if not (types.is_floating(flat.type) or types.is_integer(flat.type)):
            raise InputError(Problem(where, f"lists of {flat.type}", "lists of numbers"))
        values = flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(cells), -1)
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        given = f"NaN, infinity or nothing in row {wrong[0]} ({len(wrong)} such rows)"
        raise InputError(Problem(where, given, "finite numbers", "Fill them in before."))
    return values


def prepare(settings: GraphSpec, loaded: Loaded, division: Division) -> Prepared:
    """Build splits of nodes; the training graph is the whole one, or that of its nodes alone.

    Raises:
        InputError: A feature is not finite, lists differ in length, or an edge names a node that
            does not exist; lists every problem.
    """
    problems: list[Problem] = []
    names = {source: _names(one, settings.node, source) for source, one in loaded.splits.items()}
    read: dict[str, list[NDArray[np.float64]]] = {source: [] for source in loaded.splits}
    for source, dataset in loaded.splits.items():
        for column in settings.features:
            with gathering(problems):
                where = f"data.graph.features ({column!r} in {source})"
                read[source].append(_read_features(dataset, column, where))
    if problems:
        raise InputError(*problems)
    widths = {source: [one.shape[1] for one in parts] for source, parts in read.items()}
    if any(one != widths[TRAIN] for one in widths.values()):
        given = "; ".join(f"{source}: {one}" for source, one in widths.items())
        raise InputError(Problem("data.graph.features", f"widths {given}", "equal ones"))
    columns = tuple(map(NodeColumn, settings.features, widths[TRAIN]))
    sources = [TRAIN, *(source for source in loaded.splits if source != TRAIN)]
    every = np.concatenate([names[source] for source in sources])
    _, first = np.unique(every, return_index=True)
    first = np.sort(first)  # nodes of training come first
    known = {name: place for place, name in enumerate(every[first].tolist())}
    values = np.concatenate([np.concatenate(read[source], axis=1) for source in sources])[first]
    trained = values[: len(names[TRAIN])]
    mean: list[float] = []
    std: list[float] = []
    if settings.scaling == "standard":
        deviation = trained.std(axis=0)
        mean, std = trained.mean(axis=0).tolist(), np.where(deviation > 0, deviation, 1.0).tolist()
    preprocess = GraphPreprocess(
        columns, settings.hops, settings.scaling, mean=tuple(mean), std=tuple(std)
    )
    graph = Graph(preprocess.scale(values), _positions(settings, every[first]))
    inductive = settings.setting == "inductive"
    graphs = {TRAIN: graph.within(len(trained)) if inductive else graph}
    splits, hashes = {}, {}
    for name, (source, rows) in division.rows.items():
        numbers = np.array([known[one] for one in names[source][rows].tolist()], dtype=np.int64)
        samples = Nodes(graphs.get(name, graph), numbers, names[source][rows], settings.hops)
        splits[name] = division.split(name, samples, preprocess)
        hashes[name] = samples.hashes
    return Prepared(splits, preprocess, hashes, _notes(graph))


def _notes(graph: Graph) -> tuple[str, ...]:
    notes = [f"a graph of {len(graph):,} nodes and {len(graph.edges):,} undirected edges"]
    for count, what in ((graph.loops, "self-loops"), (graph.repeated, "repeated edges")):
        if count:
            notes.append(f"{count:,} {what} of the edge file are dropped")
    if alone := int((graph.degrees == 0).sum()):
        notes.append(f"{alone:,} nodes have no neighbour")
    return tuple(notes)


class Nodes:
    """Nodes of a graph as samples.

    Args:
        graph: The graph that neighbourhoods are of.
        numbers: The position of each node in it, int64 `[n]`.
        names: The name of each node, for display.
        hops: The hops of a neighbourhood.

    Attributes:
        hashes: A hash of each node's features and neighbours, `[n]`.
    """

    def __init__(
        self, graph: Graph, numbers: NDArray[np.int64], names: NDArray[np.str_], hops: int
    ) -> None:
        self._graph, self._numbers, self._names, self._hops = graph, numbers, names, hops
        self.hashes = np.array([self._hash(number) for number in numbers], dtype=np.uint64)

    def _hash(self, number: int) -> int:
        features = self._graph.features[number] + np.float32(0)
        return hash_of(features.tobytes() + self._graph.neighbours(number).tobytes())

    def __len__(self) -> int:
        return len(self._numbers)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return the union of the neighbourhoods of some nodes, see `Graph.neighbourhood`."""
        found = self._graph.neighbourhood(self._numbers[index.numpy()], self._hops)
        return {name: torch.from_numpy(one) for name, one in found.items()}

    def raw(self, row: int) -> dict[str, Any]:
        """Return `text`: the node's name and its neighbours."""
        number = int(self._numbers[row])
        count = len(self._graph.neighbours(number))
        return {"text": f"node {self._names[row]}, {count} neighbours"}
