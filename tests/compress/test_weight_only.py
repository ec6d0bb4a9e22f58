"""Weights of fewer bits in the file: values, sizes, and graphs that run as before."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from four_nets import subject
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper, numpy_helper

from limbeck.compress.onnx_weights import QuantizeError
from limbeck.compress.quantizers import bfloat16, float16, int4_weights
from limbeck.compress.quantizers.bfloat16 import to_bfloat16
from limbeck.compress.quantizers.float16 import to_float16
from limbeck.compress.quantizers.int4_weights import BLOCKS, Int4Weights, block_size, to_blocks
from limbeck.errors import InputError
from limbeck.export.compact.onnx import compact
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor

METHODS = {"float16": float16, "bfloat16": bfloat16, "int4_weights": int4_weights}
FLOATS = arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32))


@given(FLOATS)
@example(np.array([65519.0, 65520.0, 2.0**-24, 2.0**-25, -0.0], np.float32))
@example(np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800001, 0xFFFFFFFF], "u4").view("f4"))
def test_halves_are_rounded_as_torch_rounds(values):
    nan = np.isnan(values)
    for words, kind in ((to_float16(values), torch.float16), (to_bfloat16(values), torch.bfloat16)):
        found = torch.from_numpy(words.view(np.int16)).view(kind)
        expected = torch.from_numpy(values).to(kind)
        assert torch.equal(found[~nan].view(torch.int16), expected[~nan].view(torch.int16))
        assert torch.isnan(found[nan]).all()


@st.composite
def weights(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 200), st.integers(1, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = 10.0 ** draw(st.integers(-9, 30))
    values = rng.standard_normal(shape) * scale + draw(st.sampled_from([0, 0, 3, -3])) * scale
    values[rng.random(shape) < draw(st.sampled_from([0.0, 0.9, 1.0]))] = 0
    return values.astype(np.float32)


@settings(deadline=None)
@given(weights(), st.sampled_from(BLOCKS), st.booleans())
def test_each_value_of_four_bits_is_off_by_half_a_step_at_most(values, block, symmetric):
    outer, inputs, inner = values.shape
    size = block_size(inputs, block)
    assert 1 <= size <= block
    made = to_blocks(values, size=size, symmetric=symmetric)
    assert made.codes.max() <= 15
    count = made.codes.shape[1]
    assert (count - 1) * size < inputs <= count * size
    found = made.values.astype(np.float64).reshape(outer, -1, inner)[:, :inputs]
    steps = np.repeat(made.steps.astype(np.float64), size, axis=2)
    steps = steps.reshape(outer, -1, inner)[:, :inputs]
    assert (np.abs(found - values) <= 0.5 * steps * (1 + 1e-6)).all()
    assert (found[values == 0] == 0).all()
    # A step is as small as the block's values allow, within float16's rounding.
    whole = np.zeros((outer, count * size, inner))
    whole[:, :inputs] = values
    blocks = whole.reshape(outer, count, size, inner)
    high, low = blocks.max(2).clip(0), blocks.min(2).clip(None, 0)
    wanted = np.maximum(high, -low) / 7 if symmetric else (high - low) / 15
    assert (made.steps[:, :, 0] <= wanted * (1 + 2**-9) + 2**-24).all()


def one_node(
    kind: str, inputs: list[str], tensors: dict, shape: list, **attributes
) -> onnx.ModelProto:
    """A graph of one operator that reads `x` and weights."""
    given = "int64" if kind == "Gather" else "float32"
    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(given)), shape)
    y = helper.make_tensor_value_info("y", 1, None)
    node = helper.make_node(kind, inputs, ["y"], **attributes)
    held = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    graph = helper.make_graph([node], "one", [x], [y], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def drawn(*shape) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def as_rows(values):
    """`[outer, inputs, inner]` for a weight whose inputs are all but its first axis."""
    return values.reshape(len(values), -1, 1)


LSTM = {"w": drawn(1, 48, 40), "r": drawn(1, 48, 12)}
CASES = {
    "matmul": (one_node("MatMul", ["x", "w"], {"w": drawn(96, 50)}, [2, 96]), lambda w: w[None]),
    "batched": (
        one_node("MatMul", ["x", "w"], {"w": drawn(3, 97, 9)}, [3, 2, 97]),
        lambda w: w,
    ),
    "gemm": (one_node("Gemm", ["x", "w"], {"w": drawn(70, 40)}, [2, 70]), lambda w: w[None]),
    "gemm_transposed": (
        one_node("Gemm", ["x", "w"], {"w": drawn(40, 70)}, [2, 70], transB=1),
        as_rows,
    ),
    "conv": (one_node("Conv", ["x", "w"], {"w": drawn(30, 7, 5, 5)}, [2, 7, 9, 9]), as_rows),
    "depthwise": (
        one_node("Conv", ["x", "w"], {"w": drawn(90, 1, 3, 3)}, [2, 90, 9, 9], group=90),
        as_rows,
    ),
    "transposed": (
        one_node("ConvTranspose", ["x", "w"], {"w": drawn(33, 6, 3, 3)}, [2, 33, 5, 5]),
        lambda w: w.reshape(1, 33, -1),
    ),
    "table": (one_node("Gather", ["w", "x"], {"w": drawn(50, 33)}, [2, 5]), as_rows),
    "lstm": (
        one_node("LSTM", ["x", "w", "r"], LSTM, [7, 2, 40], hidden_size=12),
        lambda w: w.reshape(48, -1, 1),
    ),
}


def rebuilt(path, count: int) -> list[np.ndarray]:
    """Return the weights that a file's only operator reads, computed by ONNX Runtime."""
    model = onnx.load(path)
    node = next(node for node in model.graph.node if "y" in node.output)
    names = [name for name in node.input if name != "x"][:count]
    del model.graph.output[:], model.graph.input[:]
    model.graph.node.remove(node)
    model.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in names)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})


def kinds_after_optimizing(path, tmp_path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
@pytest.mark.parametrize("case", CASES)
def test_the_file_holds_the_values_of_the_blocks(case, symmetric, tmp_path):
    model, layout = CASES[case]
    onnx.save(model, tmp_path / "m.onnx")
    record = int4_weights.quantize(
        tmp_path / "m.onnx", tmp_path / "q.onnx", block=32, symmetric=symmetric
    )
    assert record.quantized == {model.graph.node[0].op_type: 1}
    assert record.ratio > 1.9
    before, after = (
        kinds_after_optimizing(tmp_path / name, tmp_path) for name in ("m.onnx", "q.onnx")
    )
    assert before == after
    given = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    for values, found in zip(given, rebuilt(tmp_path / "q.onnx", len(given)), strict=True):
        blocked = layout(values)
        size = block_size(blocked.shape[1], 32)
        made = to_blocks(blocked, size=size, symmetric=symmetric)
        expected = made.values.reshape(len(blocked), -1, blocked.shape[2])[:, : blocked.shape[1]]
        np.testing.assert_array_equal(found, expected.reshape(values.shape))


@pytest.mark.parametrize(
    ("method", "round_words"), [("float16", to_float16), ("bfloat16", to_bfloat16)]
)
def test_the_file_holds_the_rounded_values(method, round_words, tmp_path):
    model, _ = CASES["lstm"]
    onnx.save(model, tmp_path / "m.onnx")
    record = METHODS[method].quantize(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert record.quantized == {"LSTM": 1}
    for values, found in zip(LSTM.values(), rebuilt(tmp_path / "q.onnx", 2), strict=True):
        words = round_words(values)
        kind = getattr(torch, method)
        expected = torch.from_numpy(words.view(np.int16)).view(kind).float().numpy()
        np.testing.assert_array_equal(found, expected)
    kept = {tensor.name for tensor in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert kept == {"w", "r"}


def convolutions(path) -> dict[str, np.ndarray]:
    """Write a small convolutional net; give samples for it."""
    shapes = {"w0": (16, 3, 3, 3), "w1": (32, 16, 3, 3), "w2": (4, 32)}
    held = [numpy_helper.from_array(drawn(*shape) / 8, name) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w2"], ["logits"], transB=1),
    ]
    image = helper.make_tensor_value_info("image", 1, ["batch", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", 1, ["batch", 4])
    graph = helper.make_graph(nodes, "net", [image], [logits], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return {"image": drawn(5, 3, 8, 8)}


def transformer(path) -> dict[str, torch.Tensor]:
    """Export a small BERT; give samples for it."""
    net = subject("bert")
    to_onnx(net.model, net.task, net.batch, path)
    return dict(net.batch)


@pytest.fixture(
    scope="module", params=[convolutions, pytest.param(transformer, marks=pytest.mark.slow)]
)
def net(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "m.onnx"
    return path, request.param(path)


@pytest.mark.parametrize(
    ("method", "error"), [("float16", 1e-3), ("bfloat16", 1e-2), ("int4_weights", 0.3)]
)
def test_a_net_shrinks_and_keeps_its_graph(net, method, error, tmp_path):
    path, samples = net
    record = METHODS[method].quantize(path, tmp_path / "q.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "q.onnx"), full_check=True)
    assert record.method == method
    assert record.bytes_before == path.stat().st_size
    assert record.bytes_after == (tmp_path / "q.onnx").stat().st_size
    assert record.ratio > (1.6 if method != "int4_weights" else 2)
    assert record.calibration_samples == 0
    assert "float32 when it is loaded" in record.note
    operators = Counter(node.op_type for node in onnx.load(path).graph.node)
    counted = Counter(record.quantized)
    for skipped in record.skipped:
        counted.update(skipped.operators)
    assert counted == operators
    before, after = (kinds_after_optimizing(one, tmp_path) for one in (path, tmp_path / "q.onnx"))
    assert before == after
    expected = OnnxPredictor(path).predict(samples)["logits"]
    found = OnnxPredictor(tmp_path / "q.onnx").predict(samples)["logits"]
    assert 0 < np.abs(found - expected).max() <= error * np.abs(expected).max()


def test_four_bits_in_blocks_are_about_an_eighth(tmp_path):
    model = one_node("MatMul", ["x", "w"], {"w": drawn(512, 512)}, [2, 512])
    onnx.save(model, tmp_path / "m.onnx")
    for block, bits in ((32, 4.5), (64, 4.25), (128, 4.125)):
        record = int4_weights.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", block=block)
        assert record.ratio == pytest.approx(32 / bits, rel=0.02)
    assert compact(onnx.load(tmp_path / "q.onnx")).ratio < 1.02


def test_weights_beyond_float16_are_refused_by_name(tmp_path):
    large = drawn(30, 30)
    large[3, 4] = -70000
    onnx.save(one_node("MatMul", ["x", "w"], {"w": large}, [2, 30]), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"weights\.w: got 70000.*65504.*bfloat16"):
        float16.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()
    assert bfloat16.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx").ratio > 1.8


def test_a_mask_beyond_float16_stays_and_infinity_is_none(tmp_path):
    lowest = np.full((20, 20), np.finfo(np.float32).min)
    model = one_node("MatMul", ["x", "w"], {"w": drawn(20, 20), "mask": lowest}, [2, 20])
    model.graph.node.append(helper.make_node("Add", ["y", "mask"], ["z"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([[-np.inf] * 40]), "bias"))
    model.graph.node.append(helper.make_node("Add", ["z", "bias"], ["out"]))
    onnx.save(model, tmp_path / "m.onnx")
    record = float16.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert record.quantized == {"MatMul": 1, "Add": 1}
    held = {one.name: one for one in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert held["mask"].data_type == onnx.TensorProto.FLOAT
    assert np.isneginf(numpy_helper.to_array(held["bias"])).all()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_gain_is_an_error_and_no_file(method, tmp_path):
    tiny = one_node("MatMul", ["x", "w"], {"w": drawn(3, 3)}, [2, 3])
    old = one_node("MatMul", ["x", "w"], {"w": drawn(64, 64)}, [2, 64])
    old.opset_import[0].version = 17
    for model, why in ((tiny, "nothing could be quantised: .*1 MatMul"), (old, "operator set 17")):
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(QuantizeError, match=why):
            METHODS[method].quantize(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_functions_that_eat_the_gain_are_an_error(tmp_path):
    onnx.save(one_node("MatMul", ["x", "w"], {"w": drawn(9, 9)}, [2, 9]), tmp_path / "m.onnx")
    with pytest.raises(QuantizeError, match="would not shrink"):
        int4_weights.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_settings_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"quantize\.block: got 48; allowed: 32, 64, 128"):
        int4_weights.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", block=48)
    with pytest.raises(ValueError, match="block"):
        Int4Weights(block=48)
    bad = drawn(40, 40)
    bad[0, 0] = np.nan
    onnx.save(one_node("MatMul", ["x", "w"], {"w": bad}, [2, 40]), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"weights\.w.*finite"):
        int4_weights.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx")


@pytest.mark.parametrize("name", METHODS)
def test_each_is_a_method_of_the_registry(name, tmp_path):
    from limbeck.compress.quantizers import QUANTIZERS

    model, _ = CASES["matmul"]
    onnx.save(model, tmp_path / "m.onnx")
    method = QUANTIZERS.load(name)()
    record = method.write(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration=[])
    assert record.method == name
