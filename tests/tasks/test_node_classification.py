"""Node classification: mini-batches equal the whole graph, in torch and in the exported file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.core.samples import count_samples, select_samples
from limbeck.data.modalities.graph._graph import Graph
from limbeck.data.modalities.graph._preprocess import GraphPreprocess, NodeColumn
from limbeck.errors import InputError
from limbeck.evaluate.flops import flops
from limbeck.evaluate.measure import Artefact, measure
from limbeck.export.invariance import check_invariance
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor, TorchPredictor
from limbeck.models.nets.graph import gcn, node_mlp
from limbeck.objective import Objective, Term
from limbeck.schemes import SchemeInputs
from limbeck.schemes.offline import OfflineSettings
from limbeck.serving.student import load_student
from limbeck.taps import Taps
from limbeck.tasks import TASKS
from limbeck.tasks.node_classification import NodeClassification
from limbeck.teachers import FrozenTeacher
from limbeck.testing import check_scheme, check_task

NODES, WIDTH, CLASSES = 40, 5, ("a", "b", "c")
TASK = NodeClassification(CLASSES)


def graph_of(seed: int = 0, nodes: int = NODES, edges: int = 60) -> Graph:
    """Return a random graph; its last node has no neighbour."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(nodes, WIDTH)).astype(np.float32)
    return Graph(features, random.integers(0, max(nodes - 1, 1), (edges, 2)))


def batch_of(graph: Graph, nodes: list[int], hops: int = 2) -> dict[str, torch.Tensor]:
    found = graph.neighbourhood(np.array(nodes), hops)
    return {name: torch.from_numpy(one) for name, one in found.items()}


def net(kind: str = "gcn", seed: int = 0, **arguments: int) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "gcn":
        return gcn(len(CLASSES), WIDTH, 2, width=6, **arguments).eval()
    return node_mlp(len(CLASSES), WIDTH, width=6, **arguments).eval()


def dense(model: nn.Module, graph: Graph) -> np.ndarray:
    """Compute a GCN's logits of all nodes in float64, with a dense adjacency matrix."""
    adjacency = np.eye(len(graph))
    adjacency[graph.edges[:, 0], graph.edges[:, 1]] = 1
    adjacency[graph.edges[:, 1], graph.edges[:, 0]] = 1
    root = np.diag(adjacency.sum(1) ** -0.5)
    normalised, x = root @ adjacency @ root, graph.features.astype(np.float64)
    for number, layer in enumerate(model.convolutions):
        x = np.maximum(x, 0) if number else x
        weight = layer.linear.weight.detach().double().numpy()
        x = normalised @ x @ weight.T + layer.bias.detach().double().numpy()
    return x


@given(st.integers(0, 1000), st.lists(st.integers(0, 11), min_size=1, max_size=6))
@settings(max_examples=25)
def test_a_batch_equals_the_whole_graph_in_float64(seed: int, chosen: list[int]) -> None:
    graph = graph_of(seed, nodes=12, edges=14)
    for depth in (1, 2):
        model = net(depth=depth, seed=seed)
        torch.nn.init.normal_(model.convolutions[0].bias)
        found = TASK.outputs(model, batch_of(graph, chosen))["logits"].detach().numpy()
        np.testing.assert_allclose(found, dense(model, graph)[chosen], atol=2e-5)


def test_fewer_hops_than_layers_are_refused_and_would_differ() -> None:
    with pytest.raises(ValueError, match=r"depth 3 with data.graph.hops 2; allowed: at most 2"):
        gcn(3, WIDTH, 2, depth=3)
    graph, model = graph_of(), net()
    exact = TASK.outputs(model, batch_of(graph, [0, 1, 2]))["logits"]
    near = TASK.outputs(model, batch_of(graph, [0, 1, 2], hops=1))["logits"]
    assert (exact - near).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"width 0, depth 1; allowed: both above 0"):
        node_mlp(3, WIDTH, width=0, depth=1)


def test_a_batch_without_true_degrees_would_differ() -> None:
    graph, model = graph_of(), net()
    batch = batch_of(graph, [0, 1, 2])
    cut = torch.bincount(batch["edges"][1], minlength=len(batch["features"]))
    assert (cut != batch["degrees"]).any()
    wrong = TASK.outputs(model, {**batch, "degrees": cut})["logits"].detach().numpy()
    assert np.abs(wrong - dense(model, graph)[:3]).max() > 1e-3


@pytest.mark.parametrize("kind", ["gcn", "mlp"])
def test_the_task_keeps_its_laws(kind: str) -> None:
    batch = batch_of(graph_of(), [0, 5, 9, 39, 20])
    check_task(TASK, net(kind), {**batch, "labels": torch.tensor([0, 1, 2, 2, 0])})
    check_task(
        TASK,
        net(kind),
        {
            **batch,
            "labels": torch.tensor([0, -100, 2, 2, -100]),
            "labelled": torch.tensor([True, False, True, True, False]),
        },
    )


def test_a_scheme_distils_a_graph_network_into_a_perceptron() -> None:
    batch = batch_of(graph_of(), [0, 5, 9, 39, 20])
    inputs = SchemeInputs(
        task=TASK,
        objective=lambda: Objective([Term("task"), Term("soft_target_kl", temperature=2.0)]),
        probe={**batch, "labels": torch.tensor([0, 1, 2, 2, 0])},
        teacher=FrozenTeacher(net(), TASK),
    )
    check_scheme(OfflineSettings(), net("mlp", seed=1), inputs)


def test_taps_have_a_row_per_sample_in_both_nets() -> None:
    batch = batch_of(graph_of(), [3, 8])
    for kind, path in (("gcn", "convolutions.1"), ("mlp", "layers.1")):
        model = net(kind)
        with Taps(model, [path]) as taps:
            response = TASK.respond(model, batch, taps)
        torch.testing.assert_close(response.taps[path], response.primary.values)
    assert response.primary.sample_of.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("kind", "traced"),
    [
        ("gcn", [0, 5]),
        pytest.param("gcn", [39, 38], marks=pytest.mark.slow),
        pytest.param("mlp", [0, 5], marks=pytest.mark.slow),
    ],
)
def test_the_file_equals_the_model_for_other_sizes(
    kind: str, traced: list[int], tmp_path: Path
) -> None:
    graph, model, path = graph_of(), net(kind), tmp_path / "model.onnx"
    if traced[0] == 39:  # two nodes without an edge
        graph = Graph(graph.features, np.empty((0, 2), dtype=np.int64))
    to_onnx(model, TASK, batch_of(graph, traced), path)
    predictor = OnnxPredictor(path, threads=1)
    assert predictor.axes == {
        "features": ("nodes", WIDTH),
        "edges": (2, "edges"),
        "degrees": ("nodes",),
        "nodes": ("batch",),
    }
    assert predictor.output_axes == {"logits": ("batch", 3)}
    graph = graph_of(7)
    for chosen in ([4], [39], [39, 39], list(range(40)), [7, 7, 3]):
        batch = batch_of(graph, chosen)
        expected = TorchPredictor(model, TASK).predict(batch)["logits"]
        np.testing.assert_allclose(predictor.predict(batch)["logits"], expected, atol=1e-5)
    whole = batch_of(graph, list(range(16)))
    check_invariance(predictor, whole, where="student", axes=TASK.inputs)


def test_a_model_that_reads_other_nodes_of_the_batch_is_refused() -> None:
    class Centred(nn.Linear):
        def forward(self, features: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
            rows = features[nodes]
            return super().forward(rows - rows.mean(0))

    predictor = TorchPredictor(Centred(WIDTH, 3), TASK)
    with pytest.raises(InputError, match=r"when predicted one at a time"):
        check_invariance(
            predictor, batch_of(graph_of(), list(range(8))), where="student", axes=TASK.inputs
        )


def test_flops_and_cost_are_those_of_one_node_with_its_neighbourhood(tmp_path: Path) -> None:
    graph = graph_of()
    one, many = batch_of(graph, [0]), batch_of(graph, list(range(8)))
    count = len(one["features"])
    assert flops(net(), TASK, one) == 2 * count * (WIDTH * 6 + 6 * 3)
    assert flops(net("mlp"), TASK, one) == 2 * (WIDTH * 6 + 6 * 3)
    path = tmp_path / "model.onnx"
    to_onnx(net(), TASK, one, path)
    [cost] = measure(
        {"gcn": Artefact(path, parameters=1, flops=2)},
        one,
        several=many,
        seconds=0.02,
        throughput_seconds=0.02,
        energy_method="off",
    ).values()
    assert cost.throughput_batch == 8
    assert cost.latency[0].p50 > 0


def test_samples_are_selected_along_their_own_axis() -> None:
    batch = {**batch_of(graph_of(), [3, 8, 9]), "labels": torch.tensor([2, 1, 0])}
    assert count_samples(batch, TASK.inputs) == 3
    part = select_samples(batch, TASK.inputs, [2, 0])
    assert part["nodes"].tolist() == [2, 0]
    assert part["labels"].tolist() == [0, 2]
    assert part["edges"] is batch["edges"]
    with pytest.raises(InputError, match=r"a mapping with features, edges, degrees, nodes"):
        TASK.weights({"features": batch["features"]})


@pytest.mark.parametrize("kind", ["gcn", pytest.param("mlp", marks=pytest.mark.slow)])
def test_a_served_student_predicts_rows_and_graphs(kind: str, tmp_path: Path) -> None:
    graph, model = graph_of(), net(kind)
    to_onnx(model, TASK, batch_of(graph, [0, 1]), tmp_path / "model.onnx")
    prepare = GraphPreprocess((NodeColumn("words", WIDTH),), hops=2, classes=CLASSES)
    prepare.save(tmp_path)
    student = load_student(tmp_path, threads=1)
    chosen = [5, 39, 0]
    logits = TASK.outputs(model, batch_of(graph, chosen))["logits"].detach()
    expected = logits.double().softmax(1).numpy()
    given = {"words": graph.features, "edges": graph.edges}
    whole = student.preprocess.graph(given)
    np.testing.assert_allclose(student.predict_proba(whole.nodes(chosen)), expected, atol=1e-5)
    inside = student.predict([{**given, "node": node} for node in chosen])
    assert [one.label for one in inside] == [CLASSES[top] for top in expected.argmax(1)]
    assert student.predict({**given, "node": 39}).label == CLASSES[expected[1].argmax()]
    # Node 39 has no neighbours: a student of graphs needs to be given that, a perceptron does not.
    row = {"words": graph.features[39].tolist()}
    lone = student.predict({"words": [row["words"]], "edges": [], "node": 0})
    assert lone.label == CLASSES[expected[1].argmax()]
    if kind == "gcn":
        for value in (graph.features[39], row):
            with pytest.raises(InputError, match=r"got 'a node without edges'.*`edges: \[\]`"):
                student.predict(value)
        return
    alone = student.predict_proba(graph.features[[39]])
    np.testing.assert_allclose(alone, expected[1:2], atol=1e-5)
    assert student.predict(row) == student.predict(graph.features[39])
    assert TASKS.load("node_classification") is NodeClassification
