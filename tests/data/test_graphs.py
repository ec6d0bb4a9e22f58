"""Graphs: neighbourhoods are exact, labels of other splits are never trained, files are checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler, normalize

from limbeck.data.load import Data
from limbeck.data.modalities.graph import GraphSpec
from limbeck.data.modalities.graph._graph import Graph, join
from limbeck.data.modalities.graph._preprocess import GraphPreprocess, NodeColumn
from limbeck.data.preprocess import load as load_preprocess
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError

NODES, WIDTH, CLASSES = 30, 4, 3
TRAIN, VALIDATION, TEST = slice(0, 9), slice(9, 18), slice(18, 27)


def graph_of(seed: int = 0) -> dict[str, np.ndarray]:
    """Return features, labels and edges of a graph; node 29 has no neighbour."""
    random = np.random.default_rng(seed)
    return {
        "feat": random.normal(2, 3, (NODES, WIDTH)).astype(np.float32),
        "y": np.arange(NODES) % CLASSES,
        "edges": random.integers(0, NODES - 1, (2, 45)),
    }


@pytest.fixture
def nodes(tmp_path: Path) -> dict[str, Any]:
    """Write a graph as one .npz file, and as tables of nodes and edges; return the data section."""
    made = graph_of()
    parts = {"train": TRAIN, "val": VALIDATION, "test": TEST}
    numbers = np.arange(NODES)
    np.savez(
        tmp_path / "g.npz", **made, **{f"{name}_idx": numbers[one] for name, one in parts.items()}
    )
    names = np.full(NODES, "train", dtype=object)
    for name, one in parts.items():
        names[one] = name
    label = [int(one) if number < 27 else None for number, one in enumerate(made["y"])]
    rows = {
        "paper": [f"p{number}" for number in numbers],
        "words": made["feat"][:, :3].tolist(),
        "year": made["feat"][:, 3].tolist(),
        "subject": label,
        "split": names.tolist(),
    }
    order = np.random.default_rng(1).permutation(NODES).tolist()
    datasets.Dataset.from_dict(rows).select(order).to_parquet(tmp_path / "nodes.parquet")
    lines = "".join(f"p{one},p{two}\n" for one, two in made["edges"].T.tolist())
    (tmp_path / "edges.csv").write_text("cites,cited\n" + lines)
    return {
        "source": "npz",
        "files": {"train": "g.npz"},
        "columns": {"label": "y"},
        "unlabelled": True,
        "graph": {"edges": "g.npz", "features": ["feat"], "hops": 2},
    }


TABLES = {
    "source": "parquet",
    "files": {"train": "nodes.parquet"},
    "columns": {"label": "subject"},
    "split_column": "split",
    "unlabelled": True,
}
TABLE_GRAPH = {"edges": "edges.csv", "node": "paper", "features": ["words", "year"]}


def changed(spec: dict[str, Any], **graph: Any) -> dict[str, Any]:
    return spec | {"graph": spec["graph"] | graph}


def contents(data: Data, split: str) -> dict[str, set[str]]:
    """Return, by node, its features, label, degree and neighbours' features, as text."""
    rows, found = getattr(data, split), {}
    for row in range(len(rows)):
        batch = rows.__getitems__([row])
        sources = batch["edges"][0][batch["edges"][1] == 0]
        found[str(batch["features"][0].tolist())] = {
            f"label {batch['labels'].tolist()}",
            f"degree {batch['degrees'][0]}",
            *(str(batch["features"][one].tolist()) for one in sources),
        }
    return found


def test_an_npz_file_and_tables_are_the_same_graph(
    read: Callable[..., Data], nodes: dict[str, Any]
) -> None:
    one, two = read(**nodes), read(**TABLES, graph=TABLE_GRAPH)
    for split, count in (("train", 30), ("validation", 9), ("test", 9)):
        assert len(getattr(one, split)) == len(getattr(two, split)) == count
        assert contents(one, split) == contents(two, split)
    assert one.facts.modality == "graph"
    assert one.preprocess.model_inputs() == {"node_features": WIDTH, "hops": 2}
    assert two.preprocess.columns == ("words", "year")
    assert one.train.raw(29)["text"].endswith("neighbours")


def test_no_label_of_validation_and_test_is_in_a_training_batch(
    read: Callable[..., Data], nodes: dict[str, Any]
) -> None:
    data = read(**nodes)
    batch = data.train.__getitems__(range(len(data.train)))
    known = batch["features"][batch["nodes"][batch["labelled"]]]
    assert known.tolist() == graph_of()["feat"][TRAIN].tolist()
    assert (batch["labels"][~batch["labelled"]] == -100).all()
    assert int(batch["labelled"].sum()) == 9
    held = data.test.__getitems__(range(9))
    assert held["labels"].tolist() == graph_of()["y"][TEST].tolist()
    assert "labelled" not in held
    notes = " ".join(data.facts.notes)
    assert "3 rows in no split join training without their label" in notes
    assert "the validation and test nodes are part of the training graph, their labels are not" in (
        notes
    )
    assert "21 of 30 training rows have no label" in notes


def test_an_inductive_graph_has_no_node_of_the_other_splits(
    read: Callable[..., Data], nodes: dict[str, Any]
) -> None:
    data = read(**changed(nodes, setting="inductive"))
    assert (len(data.train), len(data.test)) == (12, 9)
    batch = data.train.__getitems__(range(12))
    made = graph_of()
    own = {*range(9), 27, 28, 29}
    rows = {str(row.tolist()): number for number, row in enumerate(made["feat"])}
    assert {rows[str(one.tolist())] for one in batch["features"]} == own
    for place in range(12):
        number = rows[str(batch["features"][place].tolist())]
        pairs = {frozenset(pair) for pair in made["edges"].T.tolist() if set(pair) <= own}
        degree = sum(number in pair and len(pair) == 2 for pair in pairs)
        assert batch["degrees"][place] == degree
        assert int((batch["edges"][1] == place).sum()) == degree
    whole = read(**nodes)
    assert contents(data, "test") == contents(whole, "test")


def test_without_unlabelled_rows_training_has_the_labelled_nodes_alone(
    read: Callable[..., Data], nodes: dict[str, Any], tmp_path: Path
) -> None:
    made = graph_of()
    np.savez(tmp_path / "all.npz", **made)
    drawn = nodes | {"files": {"train": "all.npz"}, "validation": 0.2, "test": 0.3}
    plain = read(**drawn | {"unlabelled": False})
    assert [len(one) for one in (plain.train, plain.validation, plain.test)] == [17, 4, 9]
    more = read(**drawn)
    assert [len(one) for one in (more.train, more.validation, more.test)] == [30, 4, 9]
    assert int(more.train.__getitems__(range(30))["labelled"].sum()) == 17
    # The graph is the same: features of all nodes may be neighbours.
    assert contents(plain, "test") == contents(more, "test")
    limited = read(**drawn, max_samples={"train": 3, "test": 5})
    assert len(limited.test) == 5
    assert int(limited.train.__getitems__(range(len(limited.train)))["labelled"].sum()) == 3
    assert "a graph of 30 nodes" in " ".join(limited.facts.notes)


def test_weights_and_sensitive_features_follow_their_nodes(
    read: Callable[..., Data], nodes: dict[str, Any], tmp_path: Path
) -> None:
    table = datasets.Dataset.from_parquet(str(tmp_path / "nodes.parquet"))
    table = table.add_column("sex", [f"of {name}" for name in table["paper"]])
    table = table.add_column("weight", [float(name[1:]) + 1 for name in table["paper"]])
    table.to_parquet(tmp_path / "nodes.parquet")
    data = read(
        **TABLES | {"columns": {"label": "subject", "weight": "weight"}},
        sensitive_features=["sex"],
        graph=TABLE_GRAPH,
    )
    for split, count in (("train", 30), ("test", 9)):
        rows = getattr(data, split)
        names = [rows.raw(row)["text"].split()[1].rstrip(",") for row in range(count)]
        found = rows.__getitems__(range(count))["weight"].tolist()
        assert found == [int(name[1:]) + 1 for name in names]
    assert data.test.groups["sex"].tolist() == [f"of {name}" for name in names]


@pytest.mark.parametrize(
    "write",
    [
        lambda path, e: np.savez(path.with_suffix(".npz"), pairs=e.T),
        lambda path, e: np.savez(path.with_suffix(".npz"), source=e[0], target=e[1]),
        lambda path, e: datasets.Dataset.from_dict({"a": e[0], "b": e[1]}).to_parquet(
            path.with_suffix(".parquet")
        ),
        lambda path, e: datasets.Dataset.from_dict({"a": e[1], "b": e[0]}).to_csv(
            path.with_suffix(".csv")
        ),
    ],
)
def test_every_form_of_edges_gives_the_same_graph(
    read: Callable[..., Data], nodes: dict[str, Any], tmp_path: Path, write: Callable[..., Any]
) -> None:
    write(tmp_path / "other", graph_of()["edges"])
    [path] = tmp_path.glob("other.*")
    columns = ["source", "target"] if "source" in str(path.read_bytes()[:100]) else []
    other = read(**changed(nodes, edges=path.name, edge_columns=columns))
    assert contents(other, "train") == contents(read(**nodes), "train")


def test_loops_and_repeated_edges_are_dropped_and_counted(
    read: Callable[..., Data], nodes: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "odd.csv").write_text("a,b\n0,1\n1,0\n2,2\n0,1\n3,4\n")
    data = read(**changed(nodes, edges="odd.csv"))
    batch = data.train.__getitems__([0, 2])
    assert batch["degrees"].tolist() == [1, 0, 1]
    assert batch["edges"].tolist() == [[2, 0], [0, 2]]
    notes = " ".join(data.facts.notes)
    for text in ("30 nodes and 2 undirected", "1 self-loops", "2 repeated", "26 nodes have no"):
        assert text in notes


def test_features_are_scaled_as_scikit_learn_scales_them(
    read: Callable[..., Data], nodes: dict[str, Any], tmp_path: Path
) -> None:
    values = graph_of()["feat"].astype(np.float64)
    for scaling, setting, expected in (
        ("l1", "transductive", normalize(values, norm="l1")),
        ("standard", "transductive", StandardScaler().fit_transform(values)),
        ("standard", "inductive", None),
    ):
        data = read(**changed(nodes, scaling=scaling, setting=setting))
        if expected is None:
            fitted = StandardScaler().fit(values[[*range(9), 27, 28, 29]])
            expected = fitted.transform(values)
        found = data.test.__getitems__([0, 1])["features"][:2].numpy()
        np.testing.assert_allclose(found, expected[18:20], atol=1e-5)
        data.preprocess.save(tmp_path)
        assert load_preprocess(tmp_path) == data.preprocess


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, np.ndarray, int]:
    count = draw(st.integers(1, 8))
    node = st.integers(0, count - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=14))
    chosen = draw(st.lists(node, min_size=1, max_size=6))
    features = np.arange(count, dtype=np.float32)[:, None]
    pairs = np.array(edges, dtype=np.int64).reshape(-1, 2)
    return Graph(features, pairs), np.array(chosen, dtype=np.int64), draw(st.integers(0, 3))


@given(graphs())
def test_a_neighbourhood_has_every_edge_into_every_nearer_node(
    drawn: tuple[Graph, np.ndarray, int],
) -> None:
    graph, chosen, hops = drawn
    found = graph.neighbourhood(chosen, hops)
    numbers = found["features"].ravel().astype(int)
    assert numbers[found["nodes"]].tolist() == chosen.tolist()
    assert found["degrees"].tolist() == graph.degrees[numbers].tolist()
    adjacent = np.zeros((len(graph), len(graph)), dtype=bool)
    adjacent[graph.edges[:, 0], graph.edges[:, 1]] = True
    adjacent |= adjacent.T
    distance = np.full(len(graph), 99)
    reached = np.isin(np.arange(len(graph)), chosen)
    for hop in range(hops + 1):
        distance[reached & (distance == 99)] = hop
        reached |= adjacent[reached].any(axis=0)
    assert set(numbers.tolist()) == set(np.flatnonzero(distance <= hops).tolist())
    sources, targets = numbers[found["edges"][0]], found["edges"][1]
    for place, number in enumerate(numbers):
        own = sorted(sources[targets == place].tolist())
        expected = np.flatnonzero(adjacent[number]).tolist() if distance[number] < hops else []
        assert own == expected
    # One by one, the nodes' neighbourhoods are the same graph.
    joined = join([one for node in chosen for one in graph.nodes([node])], hops)
    for name, one in found.items():
        np.testing.assert_array_equal(one, joined[name])


REFUSED = [
    ({"edges": "none.csv"}, r"data.graph.edges: got 'none.csv'; allowed: a file that exists"),
    ({"edges": "nodes.txt"}, r"data.graph.edges: got 'nodes.txt'.*ends in .csv"),
    ({"edges": "bad.csv"}, r"first node: got \"'77' in edge 1 \(1 such edges\)\".*30 nodes"),
    ({"edges": "bad.csv", "edge_columns": ["a", "c"]}, r"edge_columns: got 'c'; allowed: two of"),
    ({"edges": "empty.csv"}, r"1 cells without a name"),
    ({"edges": "floats.parquet"}, r"got 'double'; allowed: a whole number or a text"),
    ({"edge_columns": ["feat"]}, r"edge_columns: got 'feat in data.graph.edges"),
    ({"features": ["feet"]}, r"data.graph.features .*got 'feet'.*did you mean"),
    ({"node": "id"}, r"data.graph.node .*got 'id'"),
]


@pytest.mark.parametrize(("graph", "message"), REFUSED)
def test_hostile_edges_and_columns_are_refused(
    read: Callable[..., Data],
    nodes: dict[str, Any],
    tmp_path: Path,
    graph: dict[str, Any],
    message: str,
) -> None:
    (tmp_path / "nodes.txt").write_text("0 1")
    (tmp_path / "bad.csv").write_text("a,b\n0,1\n77,2\n")
    (tmp_path / "empty.csv").write_text("a,b\n0,\n")
    datasets.Dataset.from_dict({"a": [0.5], "b": [1.0]}).to_parquet(tmp_path / "floats.parquet")
    with pytest.raises(InputError, match=message):
        read(**changed(nodes, **graph))


def _not_finite(made: dict[str, np.ndarray]) -> None:
    made["feat"][4, 2] = np.nan


def _no_test(made: dict[str, np.ndarray]) -> None:
    made["test_idx"] = np.empty(0, dtype=np.int64)


def _twice(made: dict[str, np.ndarray]) -> None:
    made["val_idx"] = np.array([3])


def _outside(made: dict[str, np.ndarray]) -> None:
    made["train_idx"] = np.array([30])


def _sparse(made: dict[str, np.ndarray]) -> None:
    del made["feat"]
    made |= {"feat_indptr": np.zeros(31, dtype=int), "feat_indices": np.array([9])}
    made |= {"feat_data": np.ones(1), "feat_shape": np.array([30, 4])}


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (_not_finite, {}, r"features \('feat' in train\): got 'NaN, infinity or nothing in row 4"),
        (_no_test, {}, r"data \(test\): got 'no rows'"),
        (_twice, {}, r"splits: got 'row 3 twice \(1 such rows\)'"),
        (_outside, {}, r"train_idx: .*row numbers from 0 to 29"),
        (_sparse, {}, r"a valid CSR matrix"),
        (lambda made: None, {"classes": ["a", "b"]}, r"2 in row .*0 to 1, one per class"),
        (lambda made: None, {"columns": {"label": "z"}}, r"data.columns.label: got 'z'"),
        (lambda made: None, {"unlabelled": False}, r"no label in 3 of 12 rows"),
    ],
)
def test_hostile_arrays_are_refused(
    read: Callable[..., Data],
    nodes: dict[str, Any],
    tmp_path: Path,
    change: Callable[..., None],
    settings: dict[str, Any],
    message: str,
) -> None:
    with np.load(tmp_path / "g.npz") as stored:
        made = {name: stored[name].copy() for name in stored.files}
    change(made)
    np.savez(tmp_path / "g.npz", **made)
    with pytest.raises(InputError, match=message):
        read(**nodes | settings)


def test_a_damaged_file_and_pickled_objects_are_refused(
    read: Callable[..., Data], nodes: dict[str, Any], tmp_path: Path
) -> None:
    for content in (b"no archive", None):
        if content is None:
            np.savez(tmp_path / "g.npz", y=np.array([{}], dtype=object), allow_pickle=True)
        else:
            (tmp_path / "g.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"a .npz file of arrays"):
            read(**nodes)


def test_a_node_that_occurs_twice_is_refused(
    read: Callable[..., Data], nodes: dict[str, Any], tmp_path: Path
) -> None:
    table = datasets.Dataset.from_parquet(str(tmp_path / "nodes.parquet"))
    datasets.concatenate_datasets([table, table.select([3])]).to_parquet(tmp_path / "nodes.parquet")
    with pytest.raises(InputError, match=r"in two rows \(1 such nodes\)'; allowed: each node once"):
        read(**TABLES, graph=TABLE_GRAPH)


def test_settings_are_checked() -> None:
    for wrong, message in (
        ({"features": []}, "features is empty"),
        ({"features": ["a", "a"]}, "features names a twice"),
        ({"edge_columns": ["a", "b", "c"]}, "edge_columns names 3"),
        ({"hops": 11}, "less than or equal to 10"),
    ):
        with pytest.raises(ValueError, match=message):
            GraphSpec(edges="e.csv", **wrong)
    with pytest.raises(ValueError, match=r"split_column"):
        DataSpec(
            source="npz",
            files={"train": "g.npz"},
            graph={"edges": "e.csv"},
            split={"group": "author"},
        )


PREPARE = GraphPreprocess((NodeColumn("words", 2), NodeColumn("year", 1)), hops=1)
WHOLE = {"words": [[1, 2], [3, 4], [5, 6]], "year": [7, 8, 9], "edges": [[0, 1], [2, 1]]}


def test_raw_nodes_are_read_in_every_form() -> None:
    alone = PREPARE.read({"words": [1, 2], "year": "7"}, where="input")
    assert alone.graph.features.tolist() == [[1, 2, 7]]
    assert PREPARE([alone, PREPARE.read(np.array([1.0, 2, 7]), where="input")])["edges"].size == 0
    inside = PREPARE.read({**WHOLE, "node": 1}, where="input")
    first = PREPARE.read(WHOLE, where="input")
    found = PREPARE([inside, alone, first])
    assert found["nodes"].tolist() == [0, 3, 4]
    assert found["features"][found["nodes"]].tolist() == [[3, 4, 8], [1, 2, 7], [1, 2, 7]]
    assert found["degrees"].tolist() == [2, 1, 1, 0, 1, 2]
    assert found["edges"].tolist() == [[1, 2, 5], [0, 0, 4]]
    graph = PREPARE.graph({**WHOLE, "degrees": [4, 5, 6]})
    assert PREPARE(graph.nodes())["degrees"].tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"words": [1, 2]}, r"no column year"),
        (
            {"words": [1], "year": 3},
            r"input, words: got 'an array \[1, 1\]'; allowed: 2 numbers per node",
        ),
        ({"words": [1, "x"], "year": 3}, r"input, words: got 'no numbers'"),
        ({"words": [1, None], "year": 3}, r"NaN or infinity in node 0"),
        ([1.0, 2.0], r"allowed: 3 features of a node"),
        ("text", r"allowed: 3 features of a node"),
        (WHOLE | {"node": 3}, r"input, node: got 3; allowed: 0 to 2"),
        (WHOLE | {"node": "a"}, r"input, node: got 'a'"),
        (WHOLE | {"edges": [[0, 3]]}, r"edges: got '\[0.0, 3.0\] in row 0.*positions from 0 to 2"),
        (WHOLE | {"edges": [0, 1]}, r"edges: got 'an array \[2\]'"),
        (WHOLE | {"year": [1, 2]}, r"3, 2 nodes"),
        (WHOLE | {"degrees": [1, 2]}, r"3 whole numbers of at least 0"),
    ],
)
def test_invalid_nodes_are_refused(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PREPARE.read(value, where="input")


@pytest.mark.parametrize("value", [{"words": [1, 2], "year": 7}, [1.0, 2, 7], {"edges": None}])
def test_a_student_that_reads_edges_refuses_a_node_without_them(value: object) -> None:
    with pytest.raises(InputError, match=r"input: got 'a node without edges'.*`edges: \[\]`"):
        PREPARE.require(value, lambda name: True, where="input")
    PREPARE.require(value, lambda name: name == "features", where="input")


def test_a_student_that_reads_edges_takes_a_node_that_has_none() -> None:
    alone = {"words": [[1, 2]], "year": [7], "edges": []}
    for value in (alone, WHOLE, PREPARE.graph(WHOLE).nodes()[0]):
        PREPARE.require(value, lambda name: True, where="input")
    assert PREPARE([PREPARE.read(alone, where="input")])["edges"].size == 0
