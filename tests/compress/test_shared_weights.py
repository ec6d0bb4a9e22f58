"""Files of models that read one weight several times, or read weights that are no matrices."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from limbeck.compress.method import FileMethod
from limbeck.compress.onnx_weights import separate_weights
from limbeck.compress.quantizers import QUANTIZERS
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor
from limbeck.tasks.image_classification import ImageClassification
from limbeck.tasks.text_classification import TextClassification

# The largest error allowed, as a share of the size of the outputs; few bits cost the most.
ERRORS = {
    "int8_static": 0.05,
    "int8_dynamic": 0.05,
    "float16": 2e-3,
    "bfloat16": 1e-2,
    "int4_weights": 0.3,
}
FILES = [name for name in QUANTIZERS.names() if issubclass(QUANTIZERS.load(name), FileMethod)]


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    centred = expected - expected.mean(axis=1, keepdims=True)
    return float(np.sqrt(np.square(found - expected).mean() / np.square(centred).mean()))


class Images(nn.Module):
    """Linear layers and products whose weights are read again: as they are, transposed, in 3-D."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(192, 24)
        self.square = nn.Linear(24, 24)
        self.wide = nn.Linear(24, 40)
        self.back = nn.Parameter(torch.randn(24) / 5)
        self.three = nn.Parameter(torch.randn(3, 64, 8) / 8)
        self.vector = nn.Parameter(torch.randn(24) / 5)
        self.left = nn.Parameter(torch.randn(64, 64) / 8)
        self.head = nn.Linear(24 + 24, 4)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        image = F.relu(F.conv_transpose2d(image, self.conv.weight, padding=1)) + self.conv(image)
        maps = image.flatten(2)
        turned = self.left @ maps.transpose(1, 2)
        maps = maps + (self.left @ turned.relu()).transpose(1, 2) @ self.left
        x = F.relu(self.first(maps.flatten(1)))
        x = torch.tanh(self.square(F.relu(self.square(x))))
        x = F.relu(self.square(x.unsqueeze(1)).squeeze(1))
        x = F.linear(F.relu(self.wide(x)), self.wide.weight.t(), self.back)
        x = x * torch.sigmoid(x @ self.vector)[:, None]
        y = (maps.unsqueeze(2) @ self.three).flatten(1).relu()
        return self.head(torch.cat([x, y], 1))


class Texts(nn.Module):
    """A table that is the head's weight as well, and a recurrent layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 24)
        self.lstm = nn.LSTM(24, 24, batch_first=True)
        self.scores = nn.Linear(24, 40, bias=False)
        self.scores.weight = self.table.weight
        self.head = nn.Linear(80, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.table(input_ids)
        each = self.scores(x).relu().mean(1)
        x = self.lstm(self.lstm(x)[0])[0]
        return self.head(torch.cat([each, self.scores(x.mean(1))], 1))


@pytest.fixture(scope="module", params=["images", "texts"])
def exported(request, tmp_path_factory):
    torch.manual_seed(3)
    if request.param == "images":
        model, task = Images(), ImageClassification(tuple("abcd"))
        batch = {"image": torch.randn(64, 3, 8, 8)}
    else:
        model, task = Texts(), TextClassification(tuple("abcd"))
        ids = torch.randint(1, 40, (64, 7))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    to_onnx(model.eval(), task, batch, path)
    with torch.no_grad():
        return path, batch, task.outputs(model, batch)["logits"].numpy()


def test_every_file_method_has_a_bound():
    assert set(FILES) == set(ERRORS)


@pytest.mark.parametrize("name", FILES)
def test_weights_that_are_read_again_keep_their_meaning(exported, name, tmp_path):
    path, batch, expected = exported
    target = tmp_path / "small.onnx"
    calibration = [{key: value.numpy() for key, value in batch.items()}]
    QUANTIZERS.load(name)().write(path, target, calibration=calibration)
    found = OnnxPredictor(target, threads=1).predict(batch)["logits"]
    assert relative_error(found, expected) < ERRORS[name]


def test_readers_share_one_transposed_copy():
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], transB=1),
        helper.make_node("Gemm", ["x", "w"], ["b"], transB=1),
        helper.make_node("Gemm", ["y", "w"], ["c"]),
        helper.make_node("Gather", ["w", "i"], ["d"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2]),
            helper.make_tensor_value_info("i", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["m", "n"]) for name in "abcd"],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph)
    separate_weights(model)
    onnx.checker.check_model(model)
    first, second, third, table = model.graph.node
    values = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    assert first.input[1] == second.input[1] != third.input[1]
    assert len(values) == 3
    assert np.array_equal(values[first.input[1]], weight.T)
    assert np.array_equal(values[third.input[1]], weight)
    assert np.array_equal(values[table.input[0]], weight)
    assert not first.attribute
