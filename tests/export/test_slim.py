"""A slim graph computes what the full one did, branches within nodes included."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from limbeck.export import slim
from limbeck.export.predictor import OnnxPredictor
from limbeck.export.quiet import quiet


def branching() -> onnx.ModelProto:
    """Make y = x * weight + 1 if x sums to more than 0, else y = -x; branches read outer names."""
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    then = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "weight"], ["product"], name="times"),
            helper.make_node("Add", ["product", "one"], ["then_y"], name="plus"),
        ],
        "then",
        [],
        [helper.make_tensor_value_info("then_y", TensorProto.FLOAT, [3])],
        [numpy_helper.from_array(np.float32(1), "one")],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["else_y"])],
        "else",
        [],
        [helper.make_tensor_value_info("else_y", TensorProto.FLOAT, [3])],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0, doc_string="a trace"),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.float32(0))),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=other),
    ]
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [value],
        [numpy_helper.from_array(np.float32([1, 2, 3]), "weight")],
        value_info=[helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("x", [[1, 2, 3], [-1, -2, 0]])
def test_slimming_keeps_outputs(x):
    model = branching()
    feeds = {"x": np.float32(x)}
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    slim.strip(model)
    slim.shorten(model)
    onnx.checker.check_model(model)
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    np.testing.assert_array_equal(found, expected)


def test_dropped_and_kept_parts():
    model = branching()
    before = model.ByteSize()
    slim.strip(model)
    assert not model.graph.value_info
    assert not model.graph.node[0].doc_string
    assert [opset.domain for opset in model.opset_import] == [""]
    slim.shorten(model)
    assert model.graph.initializer[0].name == "weight"
    assert {model.graph.input[0].name, model.graph.output[0].name} == {"x", "y"}
    assert not any(node.name for graph in slim.graphs(model) for node in graph.node)
    assert model.ByteSize() < before


def test_weight_bytes_include_constants_and_branches():
    model = branching()
    (branch,) = (made.g for made in model.graph.node[3].attribute if made.name == "then_branch")
    held = [*model.graph.initializer, *branch.initializer, model.graph.node[1].attribute[0].t]
    assert slim.weight_bytes(model) == sum(tensor.ByteSize() for tensor in held)
    assert slim.float_bytes(model) == slim.weight_bytes(model)


def test_short_names_never_collide(tmp_path):
    model = branching()
    slim.rename(model, lambda name: {"weight": "0", "x": "1"}.get(name, name))
    slim.shorten(model)
    onnx.save(model, tmp_path / "m.onnx")
    outputs = OnnxPredictor(tmp_path / "m.onnx").predict({"1": np.float32([1, 2, 3])})
    np.testing.assert_array_equal(outputs["y"], [2, 5, 10])


def test_quiet_restores_logging(capfd):
    import logging
    import warnings

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.manager.disable
    with quiet():
        print("printed")
        logging.warning("logged")
        warnings.warn("warned", stacklevel=1)
    assert (list(root.handlers), root.manager.disable) == (handlers, level)
    assert capfd.readouterr() == ("", "")
