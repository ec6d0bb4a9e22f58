"""The exported file computes with integers what training simulated."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from four_nets import subject
from onnx import TensorProto, numpy_helper
from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.fake_quant import InputQuantizer
from limbeck.compress.quantizers.binary import Binary
from limbeck.compress.quantizers.ternary import Ternary
from limbeck.compress.quantizers.uniform import Uniform
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor
from limbeck.export.quantized import GridError, OnGrid, deploy, integers

TOLERANCE = 1e-4
"""Of the largest logit: float sums are taken in another order. One that stands just between two
whole numbers may go to either, in torch's own kernels too; in nets as small as these none does."""

CASES = {
    "cnn": Uniform(),
    "cnn in 4 bits": Uniform(bits=4, activation_bits=4, step="learned", first_last_bits=None),
    "bert": Uniform(embeddings=True),
    "vit": Uniform(bits=4, symmetric=False, activation_bits=6, symmetric_activations=True),
}


class Case:
    """A quantised model and its file."""

    def __init__(self, net, method, folder):
        self.one = subject(net)
        with torch.no_grad():
            for name, parameter in self.one.model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)
        self.changed = method.transform(self.one.model, self.one.work)
        self.path = folder / "model.onnx"
        before = copy.deepcopy(self.one.model.state_dict())
        to_onnx(self.one.model, self.one.task, self.one.batch, self.path)
        after = self.one.model.state_dict()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        self.graph = onnx.load(self.path).graph

    def weights(self):
        return {one.name: numpy_helper.to_array(one) for one in self.graph.initializer}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return {
        name: Case(name.split()[0], method, tmp_path_factory.mktemp("case"))
        for name, method in CASES.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_torch_and_onnx_runtime_agree(cases, name):
    case = cases[name]
    expected = case.one.logits().numpy()
    outputs = OnnxPredictor(case.path).predict(case.one.batch)["logits"]
    assert np.abs(outputs - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("name", CASES)
def test_layers_have_the_same_integer_inputs(cases, name, tmp_path):
    case = cases[name]
    model = onnx.load(case.path)
    # By the name of its scale, the first whole numbers in the file that a layer is given.
    found = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and "input_quantizer" in node.input[1]:
            found.setdefault(node.input[1].removesuffix(".input_quantizer.scale"), node.input[0])
    for value in set(found.values()):
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(value, TensorProto.UINT8, None)
        )
    onnx.save(model, tmp_path / "watched.onnx")
    outputs = OnnxPredictor(tmp_path / "watched.onnx").predict(case.one.batch)

    given = {}

    def note(path):
        def hook(module, args, rounded):
            step, zero = module.grid()
            given[path] = (rounded / step).round() + (-module.low if zero is None else zero)

        return hook

    for path, module in case.one.model.named_modules():
        if isinstance(module, InputQuantizer):
            module.register_forward_hook(note(path.removesuffix(".input_quantizer")))
    case.one.logits()
    assert found  # layers with the same input share what the file has of it
    for path, value in found.items():
        np.testing.assert_array_equal(outputs[value], given[path].detach().numpy(), path)


@pytest.mark.parametrize("name", CASES)
def test_weights_and_biases_are_integers(cases, name):
    case, weights = cases[name], cases[name].weights()
    for path, found in integers(case.one.model).items():
        values = weights[path]
        assert values.dtype == (np.int8 if path.endswith(".weight") else np.int32)
        np.testing.assert_array_equal(values, found.values.numpy())
        shape = [-1, *[1] * (values.ndim - 1)] if found.scale.ndim else []
        zero = 0 if found.zero_point is None else found.zero_point.reshape(shape)
        owner, _, tensor = path.rpartition(".")
        floats = getattr(case.one.model.get_submodule(owner), tensor)
        floats = floats.detach()
        assert torch.equal((found.values - zero) * found.scale.detach().reshape(shape), floats)
    assert not any("parametrizations" in name for name in weights)


def kernels(path, folder):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options)
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_onnx_runtime_uses_integer_kernels(cases, tmp_path):
    for name in ("cnn", "cnn in 4 bits"):
        # The other convolutions' outputs are added to or read elsewhere before they are rounded.
        found = kernels(cases[name].path, tmp_path)
        assert (found["QLinearConv"], found["QGemm"]) == (1, 2)
    found = kernels(cases["bert"].path, tmp_path)
    assert (found["MatMulIntegerToFloat"], found["QGemm"]) == (12, 2)
    assert kernels(cases["vit"].path, tmp_path)["MatMulIntegerToFloat"] == 8


def test_chain_of_convolutions_uses_integer_kernels(tmp_path):
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, groups=8)
    third, head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
    norm = nn.BatchNorm2d(8)
    model = nn.Sequential(
        *(first, norm, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head),
    ).eval()
    one = subject("cnn")
    Uniform(power_of_two=True).transform(model, one.work)
    to_onnx(model, one.task, one.batch, tmp_path / "model.onnx")
    found = kernels(tmp_path / "model.onnx", tmp_path)
    assert found["QLinearConv"] >= 2
    assert found["QGemm"] == 1
    # With steps that are powers of two every sum is exact, in floats and in whole numbers.
    outputs = OnnxPredictor(tmp_path / "model.onnx").predict(one.batch)["logits"]
    np.testing.assert_allclose(outputs, one.logits(model), rtol=1e-6, atol=1e-7)


def test_masks_are_applied_to_integers(tmp_path):
    one = subject("cnn")
    mask = torch.rand(one.model.hidden.weight.shape) < 0.5

    class Mask(nn.Module):
        def forward(self, weight):
            return weight * mask

    parametrize.register_parametrization(one.model.hidden, "weight", Mask())
    parametrize.register_parametrization(one.model.head, "weight", nn.Identity())
    Binary(layers=["head"], activation_bits=None, first_last_bits=None).transform(
        one.model, one.work
    )
    Ternary(layers=["wide.0"], threshold="learned").transform(one.model, one.work)
    expected = one.logits()
    to_onnx(one.model, one.task, one.batch, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    weights = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    assert (weights["hidden.weight"][~mask.numpy()] == 0).all()
    assert set(np.unique(weights["head.weight"])) == {-1, 1}
    assert set(np.unique(weights["wide.0.weight"])) == {-1, 0, 1}
    outputs = OnnxPredictor(tmp_path / "model.onnx").predict(one.batch)["logits"]
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-6)


def test_tensor_off_its_grid_is_rejected():
    class Off(nn.Module, OnGrid):
        def grid(self, original):
            return torch.tensor(1.0), None

        def forward(self, weight):
            return weight

    layer = parametrize.register_parametrization(nn.Linear(2, 2), "weight", Off())
    with pytest.raises(GridError, match=r"0\.weight"):
        deploy(nn.Sequential(layer))


def test_recurrent_model_keeps_its_outputs_and_float_lstm():
    one = subject("lstm")
    Uniform(embeddings=True).transform(one.model, one.work)
    expected = one.logits()
    deployed = deploy(copy.deepcopy(one.model))
    assert torch.equal(one.logits(deployed), expected)
    dtypes = {name: tensor.dtype for name, tensor in deployed.state_dict().items()}
    assert dtypes["embedding.weight"] == torch.int8
    assert dtypes["lstm.weight_ih_l0"] == torch.float32
    assert torch.equal(one.logits(), expected)
