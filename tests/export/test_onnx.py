"""The exported file matches the model at any batch size; a failed export is explained."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from limbeck.core import fingerprint
from limbeck.core.files import WriteError
from limbeck.errors import InputError
from limbeck.evaluate.flops import flops
from limbeck.evaluate.measure import Artefact, measure
from limbeck.export.onnx import ExportError, embed_classes, to_onnx
from limbeck.export.predictor import OnnxPredictor, TorchPredictor
from limbeck.tasks.image_classification import ImageClassification
from limbeck.tasks.text_classification import TextClassification

TASK = ImageClassification(tuple("abcde"))
KINDS = ("cnn", "mlp", "bert")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_match_at_any_batch_size(exported, kind, count):
    one = exported[kind]
    batch = one.draw(count)
    expected = TorchPredictor(one.model, one.task).predict(batch)["logits"]
    outputs = OnnxPredictor(one.path).predict(batch)["logits"]
    assert outputs.shape == (count, 5)
    assert np.abs(expected).max() > 0.05  # or agreeing would be easy
    np.testing.assert_allclose(outputs, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("tokens", [1, 2, 31, 48])
def test_any_number_of_tokens(exported, tokens):
    one = exported["bert"]
    batch = {"input_ids": torch.full((3, tokens), 7), "attention_mask": torch.ones(3, tokens)}
    batch["attention_mask"] = batch["attention_mask"].long()
    expected = TorchPredictor(one.model, one.task).predict(batch)["logits"]
    np.testing.assert_allclose(
        OnnxPredictor(one.path).predict(batch)["logits"], expected, atol=2e-5
    )


def test_padding_does_not_change_outputs(exported):
    one = exported["bert"]
    short = {"input_ids": torch.full((1, 4), 9), "attention_mask": torch.ones(1, 4).long()}
    padded = {name: torch.nn.functional.pad(value, (0, 20)) for name, value in short.items()}
    predictor = OnnxPredictor(one.path)
    np.testing.assert_allclose(
        predictor.predict(short)["logits"], predictor.predict(padded)["logits"], atol=2e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_axes(exported, kind):
    one = exported[kind]
    graph = onnx.load(one.path).graph
    assert [value.name for value in graph.input] == list(one.task.inputs)
    assert [value.name for value in graph.output] == ["logits"]
    axes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    expected = {"logits": ["batch", 5]}
    if kind == "bert":
        expected |= {name: ["batch", "tokens"] for name in one.task.inputs}
    else:
        expected["image"] = ["batch", *one.draw(1)["image"].shape[1:]]
    assert axes == expected


@pytest.mark.parametrize("kind", KINDS)
def test_file_is_valid_self_contained_and_stripped(exported, kind):
    one = exported[kind]
    model = onnx.load(one.path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert sorted(p.name for p in one.path.parent.iterdir()) == [
        "bert.onnx",
        "cnn.onnx",
        "mlp.onnx",
    ]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    weights = sum(p.numel() * 4 for p in one.model.state_dict().values())
    assert one.path.stat().st_size < weights + 2000 + 250 * len(model.graph.node)


def test_weights_keep_their_names(exported):
    one = exported["cnn"]
    names = {tensor.name for tensor in onnx.load(one.path).graph.initializer}
    assert {"0.weight", "4.depthwise.weight", "9.weight", "9.bias"} <= names


def test_batch_norms_are_folded(exported):
    kinds = [node.op_type for node in onnx.load(exported["cnn"].path).graph.node]
    assert kinds.count("Conv") == 5
    assert "BatchNormalization" not in kinds


def test_export_does_not_modify_the_model(cnn, tmp_path):
    cnn.train()
    cnn[0].eval()  # a mixture of modes, which a plain model.train() afterwards would lose
    modes = [module.training for module in cnn.modules()]
    before = fingerprint.of_tensors(cnn.state_dict())
    to_onnx(cnn, TASK, {"image": torch.randn(1, 3, 12, 12)}, tmp_path / "m.onnx")
    assert [module.training for module in cnn.modules()] == modes
    assert fingerprint.of_tensors(cnn.state_dict()) == before
    assert all(parameter.requires_grad for parameter in cnn.parameters())
    cnn.train()


def test_export_prints_nothing(mlp, tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_onnx(mlp, TASK, {"image": torch.randn(2, 3, 3, 3)}, tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")


class Flat(nn.Module):
    """Base of the invalid models below: images to five numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(27, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Branching(Flat):
    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        return y if y.sum() > 0 else -y


class FixedBatch(Flat):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.reshape(2, 3, 3, 3))


class Random(Flat):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) + torch.randn(x.shape[0], 5)


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (
            nn.Sequential(Flat(), Bessel()),
            ['"prims.bessel_j0"', "called in 1 (Bessel)", "no ONNX form"],
        ),
        (Branching(), ["branches on a tensor's values", "torch.where", "test_onnx.py"]),
        (FixedBatch(), ["size of the batch"]),
        (Random(), ["random numbers"]),
    ],
    ids=["operator", "branch", "batch", "random"],
)
def test_failed_export_raises_one_explained_error(model, parts, tmp_path):
    target = tmp_path / "m.onnx"
    target.write_bytes(b"earlier file")
    with pytest.raises(ExportError) as caught:
        to_onnx(model, TASK, {"image": torch.randn(2, 3, 3, 3)}, target)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message
    assert target.read_bytes() == b"earlier file"
    assert list(tmp_path.iterdir()) == [target]


def test_unwritable_target_raises_write_error(mlp, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WriteError, match="could not be written"):
        to_onnx(mlp, TASK, {"image": torch.randn(2, 3, 3, 3)}, tmp_path / "file" / "m.onnx")


def test_example_without_an_input_is_rejected(mlp, tmp_path):
    with pytest.raises(InputError, match="a batch with image"):
        to_onnx(mlp, TASK, {"pixels": torch.randn(2, 3, 3, 3)}, tmp_path / "m.onnx")


def test_file_runs_without_torch_and_limbeck(exported, tmp_path):
    one = exported["cnn"]
    batch = one.draw(5)
    np.save(tmp_path / "x.npy", batch["image"].numpy())
    program = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1])\n"
        "numpy.save(sys.argv[3], session.run(None, {'image': numpy.load(sys.argv[2])})[0])\n"
        "assert not {'torch', 'limbeck'} & set(sys.modules)\n"
    )
    paths = [str(p) for p in (one.path, tmp_path / "x.npy", tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-I", "-c", program, *paths], check=True)
    expected = TorchPredictor(one.model, one.task).predict(batch)["logits"]
    np.testing.assert_allclose(np.load(Path(paths[2])), expected, atol=2e-5)


def test_shared_registry_does_not_change_the_file(exported, tmp_path, monkeypatch):
    made = exported["cnn"]
    files = [tmp_path / f"{number}.onnx" for number in range(3)]
    for path in files[:2]:  # the second export finds the list
        to_onnx(made.model, made.task, made.draw(2), path)
    monkeypatch.setattr("limbeck.export.onnx.listed_once", contextlib.nullcontext)
    to_onnx(made.model, made.task, made.draw(2), files[2])
    first, second, without = (path.read_bytes() for path in files)
    assert first == second == without


def test_embedded_class_names_do_not_change_outputs(exported, tmp_path):
    import json
    import shutil

    import onnxruntime

    one, path = exported["cnn"], tmp_path / "m.onnx"
    shutil.copyfile(one.path, path)
    names = ["chien", 'a "quoted" name', "鳥", "with, comma", "cat"]
    for classes in (names[::-1], names):  # written anew, not twice
        embed_classes(path, classes)
    session = onnxruntime.InferenceSession(path)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == names
    batch = one.draw(3)
    expected = OnnxPredictor(one.path).predict(batch)["logits"]
    assert (OnnxPredictor(path).predict(batch)["logits"] == expected).all()


class Tied(nn.Module):
    """Scores a text's tokens with the matrix that embeds them, through a layer with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(500, 32)
        self.body = nn.Linear(32, 32)
        self.again = self.body
        self.head = nn.Linear(500, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[..., None]
        x = self.again(self.body(self.embed(input_ids)).relu())
        x = nn.functional.linear(x, self.embed.weight)
        return self.head((x * mask).sum(1) / mask.sum(1))


def test_shared_weights_are_written_once(tmp_path):
    model = Tied().eval()
    ids = torch.randint(0, 500, (3, 6))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    to_onnx(model, TextClassification(tuple("abcde")), batch, tmp_path / "m.onnx")
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    assert weights < (tmp_path / "m.onnx").stat().st_size < 1.1 * weights


class MeanOfNeighbours(nn.Module):
    """One layer of a graph network: sums messages along edges, and divides by the degree."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges[0], edges[1]
        messages = torch.zeros_like(x).index_add(0, target, x[source])
        degree = torch.zeros_like(x[:, :1]).index_add(0, target, torch.ones_like(x[source, :1]))
        return self.linear(messages / degree.clamp_min(1))


class NodeTask:
    """The part of a task that an export needs, of a graph: no axis counts samples."""

    inputs: ClassVar = {"x": ("nodes",), "edges": (None, "edges")}

    def outputs(self, model, batch):
        return {"logits": model(batch["x"], batch["edges"])}


def graph(nodes: int, edges: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(nodes, 3), "edges": torch.randint(nodes, (2, edges))}


def test_axes_of_a_graph_are_named_and_vary(tmp_path):
    model, path = MeanOfNeighbours().eval(), tmp_path / "m.onnx"
    to_onnx(model, NodeTask(), graph(5, 9), path)
    shapes = {
        value.name: [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim]
        for value in (*onnx.load(path).graph.input, *onnx.load(path).graph.output)
    }
    assert shapes == {"x": ["nodes", 3], "edges": [2, "edges"], "logits": ["nodes", 2]}
    for nodes, edges in ((1, 1), (5, 9), (40, 7)):
        other = graph(nodes, edges)
        with torch.no_grad():
            expected = model(**other).numpy()
        found = OnnxPredictor(path).predict(other)["logits"]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_cost_of_a_graph_is_that_of_the_whole(tmp_path):
    model, path, example = MeanOfNeighbours().eval(), tmp_path / "m.onnx", graph(5, 9)
    to_onnx(model, NodeTask(), example, path)
    assert flops(model, NodeTask(), example) == 2 * 5 * 3 * 2
    artefact = Artefact(path, parameters=8, flops=60)
    settings = {"seconds": 0.01, "throughput_seconds": 0.01, "energy_method": "off"}
    assert measure({"graph": artefact}, example, **settings)["graph"].throughput_batch == 1
