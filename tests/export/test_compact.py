"""Compact storage: decoding is exact, files shrink, and ONNX Runtime folds the graphs."""

from __future__ import annotations

import contextlib
import json
from collections import Counter

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors import safe_open
from safetensors.torch import save_file

from limbeck.compress.quantizers.int8_static import quantize
from limbeck.errors import InputError, LimbeckError
from limbeck.export.compact import functions
from limbeck.export.compact.choose import Option, choose
from limbeck.export.compact.codes import Content, Plan, pack, packed_bytes, restore, unpack
from limbeck.export.compact.onnx import ITEM_BYTES, Parts, compact, replace
from limbeck.export.compact.safetensors import KEY, load_compact, save_compact

OPSET = 20


@st.composite
def contents(draw, items=(1, 2, 4, 8), most=700):
    """Words with some blanks, some repeated values, some drawn freely."""
    item = draw(st.sampled_from(items))
    count = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    words = rng.integers(0, 256, (count, item), dtype=np.uint8).view(f"<u{item}").reshape(-1)
    kinds = draw(st.sampled_from([1, 2, 3, 9, 100, 1000]))
    words = words[rng.integers(0, min(kinds, count), count)]
    blank = draw(st.sampled_from([0, int(words[0])]))
    words[rng.random(count) < draw(st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))] = blank
    return words


def payload(form) -> int:
    if isinstance(form, np.ndarray):
        return form.nbytes
    if hasattr(form, "book"):
        return form.book.nbytes + sum(field.nbytes for field in form.codes.fields)
    places = form.mask if hasattr(form, "mask") else form.steps
    return payload(form.values) + sum(field.nbytes for field in places.fields)


@settings(deadline=None)
@given(st.integers(1, 8), st.data())
def test_unpack_inverts_pack(bits, data):
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    packed = pack(np.array(codes, np.uint8), bits)
    assert unpack(packed).tolist() == codes
    assert sum(field.nbytes for field in packed.fields) == packed_bytes(bits, len(codes))
    assert packed_bytes(bits, 8 * len(codes)) == bits * len(codes)


@settings(deadline=None)
@given(contents())
def test_every_form_is_lossless_with_its_planned_bytes(words):
    content = Content(words)
    for plan in content.plans():
        form = content.make(plan)
        assert restore(form).tobytes() == words.tobytes()
        assert payload(form) == plan.payload


def model_of(tensors, opset=OPSET) -> onnx.ModelProto:
    """Build a graph that only outputs its weights."""
    nodes = [helper.make_node("Identity", [one.name], [f"{one.name}_out"]) for one in tensors]
    outputs = [
        helper.make_tensor_value_info(f"{one.name}_out", one.data_type, one.dims) for one in tensors
    ]
    graph = helper.make_graph(nodes, "weights", [], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def tensor_of(words, kind, name="w", shape=None) -> TensorProto:
    return TensorProto(
        name=name, data_type=kind, dims=shape or [len(words)], raw_data=words.tobytes()
    )


def session(model, options=None) -> onnxruntime.InferenceSession:
    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(model) -> list[bytes]:
    """Return the outputs of ONNX Runtime as bytes; torch reads bfloat16, which numpy lacks."""
    ready = session(model)
    values = ready.run_with_ort_values([value.name for value in ready.get_outputs()], {})
    return [
        torch.from_dlpack(one).view(torch.int16).numpy().tobytes()
        if one.data_type() == "tensor(bfloat16)"
        else one.numpy().tobytes()
        for one in values
    ]


@pytest.mark.parametrize("kind", sorted(ITEM_BYTES))
def test_onnx_runtime_decodes_every_form_of_every_type(kind):
    rng = np.random.default_rng(kind)
    item = ITEM_BYTES[kind]
    words = rng.integers(0, 256, (601, item), dtype=np.uint8).view(f"<u{item}").reshape(-1)
    if kind == TensorProto.BOOL:
        words &= 1
    words = words[rng.integers(0, 90, 601)]
    words[rng.random(601) < 0.6] = words[0]
    content, model = Content(words), model_of([])
    plans = list(content.plans())
    names = functions.free_names(model)
    for index, plan in enumerate(plans):
        parts = Parts(names)
        parts.restore(content.make(plan), kind, [601, 1], out=f"w{index}")
        replace(model.graph, set(), [parts])
        model.graph.output.append(helper.make_tensor_value_info(f"w{index}", kind, [601, 1]))
    functions.add(model, {node.op_type for node in model.graph.node})
    onnx.checker.check_model(model, full_check=True)
    assert len(plans) >= 17
    for plan, found in zip(plans, run(model), strict=True):
        assert found == words.tobytes(), str(plan)


@settings(max_examples=30, deadline=None)
@given(st.lists(contents(), min_size=1, max_size=4), st.data())
def test_compact_is_lossless_and_never_grows_a_file(drawn, data):
    kinds = [
        data.draw(st.sampled_from([kind for kind, item in ITEM_BYTES.items() if item == size]))
        for size in (words.itemsize for words in drawn)
    ]
    drawn = [
        words & 1 if kind == TensorProto.BOOL else words
        for words, kind in zip(drawn, kinds, strict=True)
    ]
    tensors = [
        tensor_of(words, kind, f"w{index}")
        for index, (words, kind) in enumerate(zip(drawn, kinds, strict=True))
    ]
    model = model_of(tensors)
    before = model.SerializeToString()
    record = compact(model)
    assert record.bytes_before == len(before)
    assert record.bytes_after == model.ByteSize() <= len(before)
    assert bool(record.tensors) == (record.bytes_after < len(before)) == (record.note == "")
    assert run(model) == [words.tobytes() for words in drawn]
    if not record.tensors:
        assert model.SerializeToString() == before


def test_no_file_grows_if_gain_and_price_are_close():
    compacted = []
    for count in range(16, 260):
        model = model_of([tensor_of(np.full(count, 7, np.uint32), TensorProto.FLOAT)])
        before = model.ByteSize()
        record = compact(model)
        assert record.bytes_after == model.ByteSize() <= before
        compacted.append(bool(record.tensors))
    assert compacted == sorted(compacted)  # from some size on it pays
    assert {True, False} == set(compacted)


def special() -> np.ndarray:
    """Zeros of both signs, infinities, and NaNs that differ in sign and payload."""
    infinite, nan = [0x7F800000, 0xFF800000], [0x7FC00000, 0x7FC00001, 0xFFC12345, 0x7FA00001]
    return np.array([0, 0x80000000, *infinite, *nan], np.uint32)


def test_signed_zeros_and_nan_payloads_are_kept():
    rng = np.random.default_rng(0)
    dense = special()[rng.integers(0, 8, 2000)]
    sparse = np.where(rng.random(2000) < 0.9, np.uint32(0), dense)
    model = model_of([tensor_of(dense, 1, "dense"), tensor_of(sparse, 1, "sparse")])
    record = compact(model)
    assert {one.name: one.form for one in record.tensors}["dense"] == "3-bit codes"
    assert run(model) == [dense.tobytes(), sparse.tobytes()]


def test_reference_evaluator_decodes_the_same():
    rng = np.random.default_rng(0)
    codes = rng.integers(-6, 6, 9999).astype(np.int8)
    sparse = np.where(rng.random(20000) < 0.95, 0, rng.standard_normal(20000)).astype(np.float32)
    half = np.where(rng.random(3000) < 0.5, 0, rng.standard_normal(3000)).astype(np.float32)
    arrays = [codes, sparse, half.reshape(30, 100)]
    model = model_of([numpy_helper.from_array(one, f"w{i}") for i, one in enumerate(arrays)])
    forms = [one.form for one in compact(model).tensors]
    assert len(forms) == 3
    assert any("mask" in form for form in forms)
    assert any("steps" in form for form in forms)
    # The reference cannot pass a tensor to a function, so that functions are put in place first.
    plain = onnx.inliner.inline_local_functions(model)
    assert not plain.functions
    for expected, found in zip(arrays, ReferenceEvaluator(plain).run(None, {}), strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)


def layers(*weights) -> onnx.ModelProto:
    """Products one after another."""
    nodes = [
        helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(len(weights))
    ]
    ends = [f"x{0}", f"x{len(weights)}"]
    x, y = (helper.make_tensor_value_info(name, 1, ["n", 64]) for name in ends)
    tensors = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "layers", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def kinds_after_optimizing(model, tmp_path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session(model, options)
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


def sparse(share, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((64, 64)).astype(np.float32)
    return np.where(rng.random((64, 64)) < share, np.float32(0), weight)


def test_onnx_runtime_folds_every_form(tmp_path):
    rng = np.random.default_rng(1)
    codes = [rng.integers(2**bits, size=(64, 64)).astype(np.float32) for bits in range(1, 9)]
    model = layers(sparse(0.5), sparse(0.95), np.where(sparse(0.8), codes[4], 0), *codes)
    reference = onnx.ModelProto()
    reference.CopyFrom(model)
    record = compact(model)
    forms = " ".join(one.form for one in record.tensors)
    assert "mask" in forms
    assert "steps" in forms
    assert {f"{bits}-bit codes" for bits in (1, 2, 4)} <= {one.form for one in record.tensors}
    assert kinds_after_optimizing(model, tmp_path) == {"MatMul": 11}
    x = rng.standard_normal((3, 64)).astype(np.float32)
    expected, found = (session(one).run(None, {"x0": x})[0] for one in (reference, model))
    np.testing.assert_array_equal(found, expected)


def test_tensors_share_functions():
    model = layers(*(sparse(0.95, seed) for seed in range(10)))
    record = compact(model)
    assert len(record.tensors) == 10
    assert len(model.functions) <= 3
    assert record.ratio > 8
    assert sum(one.bytes_before - one.bytes_after for one in record.tensors) > (
        record.bytes_before - record.bytes_after
    )


def test_compacting_twice_is_lossless():
    weights = [sparse(0.95), sparse(0.5)]
    model = model_of([numpy_helper.from_array(one, f"w{i}") for i, one in enumerate(weights)])
    sizes = [compact(model).bytes_after for _ in range(3)]
    assert sizes == sorted(sizes, reverse=True)
    assert run(model) == [one.tobytes() for one in weights]


@pytest.fixture
def ternary_file(tmp_path):
    """Two convolutions and a linear layer, each weight one of three values."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (32, 3, 3, 3), "w1": (32, 32, 3, 3), "w2": (5, 32)}
    tensors = [
        numpy_helper.from_array(rng.integers(-1, 2, shape).astype(np.float32) / 9, name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w2"], ["logits"], transB=1),
    ]
    image = helper.make_tensor_value_info("image", 1, ["batch", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", 1, ["batch", 5])
    graph = helper.make_graph(nodes, "net", [image], [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.save(model, tmp_path / "float.onnx")
    return tmp_path / "float.onnx"


def test_int8_graph_keeps_its_int8_kernels(ternary_file, tmp_path):
    images = np.random.default_rng(0).random((16, 3, 8, 8), np.float32)
    quantize(ternary_file, tmp_path / "int8.onnx", calibration=[{"image": images}])
    model = onnx.load(tmp_path / "int8.onnx")
    kinds = kinds_after_optimizing(model, tmp_path)
    expected = session(model).run(None, {"image": images})[0]
    record = compact(model)
    assert {one.form for one in record.tensors} == {"2-bit codes"}
    assert kinds_after_optimizing(model, tmp_path) == kinds
    assert kinds["QLinearConv"] == 2
    assert kinds["QGemm"] == 1
    np.testing.assert_array_equal(session(model).run(None, {"image": images})[0], expected)


def test_weights_of_branches_and_of_the_main_graph_are_compacted():
    branches = []
    for name in ("then", "else"):
        weight = tensor_of(sparse(0.9).reshape(-1), 1, f"{name}_w", [64, 64])
        node = helper.make_node("Identity", [f"{name}_w"], [f"{name}_y"])
        value = helper.make_tensor_value_info(f"{name}_y", 1, [64, 64])
        branches.append(helper.make_graph([node], name, [], [value], [weight]))
    which = helper.make_tensor_value_info("which", TensorProto.BOOL, [])
    y = helper.make_tensor_value_info("y", 1, [64, 64])
    then, otherwise = branches
    nodes = [
        helper.make_node("If", ["which"], ["z"], then_branch=then, else_branch=otherwise),
        helper.make_node("Add", ["z", "w"], ["y"]),
    ]
    weight = tensor_of(sparse(0.9).reshape(-1), 1, "w", [64, 64])
    graph = helper.make_graph(nodes, "g", [which], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    record = compact(model)
    assert {one.name for one in record.tensors} == {"then_w", "else_w", "w"}
    gain = sum(one.bytes_before - one.bytes_after for one in record.tensors)
    assert gain - 2000 < record.bytes_before - model.ByteSize() < gain  # less the functions
    found = session(model).run(None, {"which": np.array(True)})[0]
    np.testing.assert_array_equal(found, 2 * sparse(0.9))


def test_constants_are_compacted_and_graph_inputs_are_not():
    constant = helper.make_node(
        "Constant", [], ["c"], value=numpy_helper.from_array(sparse(0.9), "")
    )
    nodes = [constant, helper.make_node("Add", ["c", "w"], ["y"])]
    inputs = [helper.make_tensor_value_info("w", 1, [64, 64])]
    outputs = [helper.make_tensor_value_info("y", 1, [64, 64])]
    weight = numpy_helper.from_array(sparse(0.9, 1), "w")
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    assert [one.name for one in compact(model).tensors] == ["c"]
    np.testing.assert_array_equal(session(model).run(None, {})[0], sparse(0.9) + sparse(0.9, 1))


@pytest.mark.parametrize(
    ("weights", "opset", "reason"),
    [
        ([np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)], 20, "no weight"),
        ([np.zeros((2, 3), np.float32)], 20, "no weight"),
        ([np.zeros((64, 64), np.float32)], 17, "operator set 17"),
    ],
)
def test_note_states_why_nothing_was_compacted(weights, opset, reason):
    model = model_of([numpy_helper.from_array(one, "w") for one in weights], opset)
    before = model.SerializeToString()
    record = compact(model)
    assert reason in record.note
    assert record.ratio == 1
    assert model.SerializeToString() == before


def test_function_is_dropped_if_few_tensors_need_it():
    dear = Option(Plan(10), 10, frozenset({"dear"}))
    cheap = Option(Plan(20), 20, frozenset({"cheap"}))
    prices = {"dear": 100, "cheap": 30}
    few = choose([(dear, cheap)] * 3, [100] * 3, prices)
    assert few == [cheap] * 3
    assert choose([(dear, cheap)] * 30, [100] * 30, prices) == [dear] * 30
    assert choose([(dear,)], [100], prices) == [None]


STATES = st.dictionaries(st.text(max_size=8), contents(), max_size=4)
TYPES = {
    1: [torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn],
    2: [torch.float16, torch.bfloat16, torch.int16],
    4: [torch.float32, torch.int32],
    8: [torch.float64, torch.int64, torch.complex64],
}


def as_tensor(words, kind) -> torch.Tensor:
    words = words & 1 if kind == torch.bool else words
    return torch.from_numpy(words.view(np.uint8).copy()).view(kind)


def bits(tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(found, state):
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(found[name]) == bits(tensor), name


@settings(max_examples=60, deadline=None)
@given(STATES, st.data())
def test_load_compact_inverts_save_compact(tmp_path_factory, drawn, data):
    state = {
        name: as_tensor(words, data.draw(st.sampled_from(TYPES[words.itemsize])))
        for name, words in drawn.items()
    }
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    record = save_compact(state, path)
    assert record.bytes_after == path.stat().st_size
    assert_same(load_compact(path), state)


def test_model_round_trip_with_shapes_and_ties(tmp_path):
    state = {
        "pruned": torch.from_numpy(sparse(0.95)).reshape(4, 16, 64),
        "turned": torch.from_numpy(sparse(0.95, 1)).T,
        "ternary": torch.randint(-1, 2, (40, 40), dtype=torch.int8),
        "dense": torch.randn(30, 30),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 3),
        "zeros": torch.zeros(100, 100),
        "odd": torch.from_numpy(special().view(np.float32).repeat(90)),
    }
    state |= {"tied": state["dense"], "#0": torch.ones(3)}
    record = save_compact(state, tmp_path / "m.safetensors")
    assert_same(load_compact(tmp_path / "m.safetensors"), state)
    forms = {one.name: one.form for one in record.tensors}
    assert forms["tied"] == "as dense"
    assert forms["ternary"] == "2-bit codes"
    assert "steps" in forms["pruned"]
    loaded = load_compact(tmp_path / "m.safetensors")
    assert loaded["tied"].data_ptr() == loaded["dense"].data_ptr()
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("dense"), state["dense"])


def test_unsupported_dtype_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"wide: got 'torch\.complex128'"):
        save_compact({"wide": torch.zeros(3, dtype=torch.complex128)}, tmp_path / "m.safetensors")


@pytest.fixture
def written(tmp_path):
    """A file with every form, and its header and tensors taken apart."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random(4096) < 0.5, 0, rng.standard_normal(4096)).astype(np.float32)
    state = {
        "masked": torch.from_numpy(values),
        "stepped": torch.from_numpy(sparse(0.95)),
        "coded": torch.randint(0, 5, (900,)),
        "dense": torch.randn(200),
    }
    state["same"] = state["dense"]
    save_compact(state, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()[KEY])
        pieces = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    forms = {name: entry["stored"]["form"] for name, entry in header["tensors"].items()}
    assert forms == {name: name for name in ("masked", "stepped", "coded")}

    def write(header, pieces=pieces):
        save_file(pieces, tmp_path / "m.safetensors", metadata={KEY: json.dumps(header)})
        return tmp_path / "m.safetensors"

    return header, pieces, write


HUGE = 2**45
DAMAGE = [
    *((name, ["shape"], [HUGE]) for name in ("masked", "stepped", "coded")),
    ("stepped", ["shape"], [64, 63]),
    ("stepped", ["shape"], [-64, -64]),
    ("stepped", ["stored", "steps", "count"], HUGE),
    ("stepped", ["stored", "steps", "bits"], 9),
    ("stepped", ["stored", "steps", "fields"], ["dense"]),
    ("stepped", ["stored", "values", "piece"], "nothing"),
    ("stepped", ["stored", "values", "piece"], "dense"),
    ("stepped", ["stored", "blank"], "dense"),
    ("stepped", ["stored", "form"], "masked"),
    ("masked", ["stored", "mask", "count"], HUGE),
    ("masked", ["stored", "mask", "count"], 4000),
    ("masked", ["stored", "mask", "bits"], 2),
    ("masked", ["stored", "values", "piece"], "dense"),
    ("masked", ["stored", "form"], "unknown"),
    ("coded", ["stored", "codes", "count"], HUGE),
    ("coded", ["stored", "codes", "count"], "900"),
    ("coded", ["stored", "codes", "bits"], 2),
    ("coded", ["stored", "codes", "extra"], 1),
    ("coded", ["stored", "book"], "dense"),
]


@pytest.mark.parametrize(("name", "place", "value"), DAMAGE)
def test_inconsistent_headers_are_rejected(written, name, place, value):
    header, _, write = written
    at = header["tensors"][name]
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    path = write(header)
    with pytest.raises(LimbeckError, match=r"m\.safetensors: damaged"):
        load_compact(path)


def test_code_outside_the_codebook_is_rejected(written):
    header, pieces, write = written
    book = header["tensors"]["coded"]["stored"]["book"]
    with pytest.raises(LimbeckError, match="in a book of 4"):
        load_compact(write(header, pieces | {book: pieces[book][:4].clone()}))


@pytest.mark.parametrize("same", [{"same": "nothing"}, {"dense": "coded"}, {"a": "b", "b": "a"}])
def test_alias_of_a_missing_tensor_is_rejected(written, same):
    header, _, write = written
    with pytest.raises(LimbeckError, match="damaged"):
        load_compact(write(header | {"same": same}))


def test_missing_foreign_or_truncated_file_raises_limbeck_error(written, tmp_path):
    _, pieces, write = written
    with pytest.raises(LimbeckError, match="no such file"):
        load_compact(tmp_path / "nothing.safetensors")
    save_file(pieces, tmp_path / "plain.safetensors")
    with pytest.raises(LimbeckError, match="save_compact did not write it"):
        load_compact(tmp_path / "plain.safetensors")
    path = write({"tensors": {}, "same": {}})
    content = path.read_bytes()
    for size in (0, 4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(LimbeckError, match="damaged"):
            load_compact(path)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), min_size=1, max_size=3))
def test_mutated_files_raise_only_limbeck_errors(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("damaged") / "m.safetensors"
    save_compact(
        {"a": torch.from_numpy(sparse(0.95)), "b": torch.arange(500) % 3, "c": torch.ones(9)}, path
    )
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content)
    with contextlib.suppress(LimbeckError):
        load_compact(path)
