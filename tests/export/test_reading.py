"""Files of unknown origin are refused with one error, in bounded time and memory."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from limbeck.errors import InputError, LimbeckError
from limbeck.export.predictor import OnnxPredictor
from limbeck.export.reading import check_file, probe, read_model

ROW = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
OUT = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
WEIGHT = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
OPSETS = [helper.make_opsetid("", 18)]


def model(nodes, weights=(WEIGHT,), **more) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [ROW], [OUT], list(weights))
    return helper.make_model(graph, opset_imports=more.pop("opsets", OPSETS), ir_version=9, **more)


def product() -> onnx.ModelProto:
    return model([helper.make_node("MatMul", ["x", "w"], ["logits"])])


def write(made: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


def test_valid_file_is_read_and_probed(tmp_path):
    path = write(product(), tmp_path / "m.onnx")
    assert read_model(path) == product()
    probe(path)
    assert OnnxPredictor(path).predict({"x": np.ones((2, 4))})["logits"].shape == (2, 4)


@pytest.mark.parametrize("place", ["/etc/hostname", "../secret.bin", "link.bin", "beside.bin"])
def test_external_data_is_rejected(place, tmp_path):
    folder = tmp_path / "student"
    folder.mkdir()
    for name in ("secret.bin", "student/beside.bin"):
        (tmp_path / name).write_bytes(bytes(64))
    (folder / "link.bin").symlink_to("/dev/zero")
    made = product()
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=place)
    path = write(made, folder / "m.onnx")
    with pytest.raises(InputError, match=rf"w kept in another file, {place}"):
        OnnxPredictor(path)


def huge_declared() -> onnx.ModelProto:
    made = product()
    del made.graph.initializer[0].dims[:]
    made.graph.initializer[0].dims.extend([2**40, 2**40])
    return made


def negative() -> onnx.ModelProto:
    made = product()
    made.graph.initializer[0].dims[0] = -4
    return made


def custom() -> onnx.ModelProto:
    node = helper.make_node("Shell", ["x"], ["logits"], domain="evil.ops")
    return model([node], opsets=[*OPSETS, helper.make_opsetid("evil.ops", 1)])


def nested() -> onnx.ModelProto:
    inner = helper.make_graph([], "deepest", [], [OUT])
    for level in range(30):
        node = helper.make_node("If", ["c"], ["logits"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([node], f"level{level}", [], [OUT])
        if level > 12:  # both branches double the file each time
            break
    return model(list(inner.node))


def calling(bodies: dict[str, list[str]]) -> onnx.ModelProto:
    """A file of functions, each a row of calls of others."""
    functions = [
        helper.make_function(
            "own", name, ["a"], ["b"],
            [helper.make_node(one, ["a"], ["b"], domain="own") for one in body]
            or [helper.make_node("Identity", ["a"], ["b"])],
            OPSETS,
        )
        for name, body in bodies.items()
    ]  # fmt: skip
    return model(
        [helper.make_node("f0", ["x"], ["logits"], domain="own")],
        opsets=[*OPSETS, helper.make_opsetid("own", 1)],
        functions=functions,
    )


FILES = {
    "huge": (huge_declared, "w of shape .*in 64 bytes"),
    "negative": (negative, "sizes from 0"),
    "custom": (custom, "operators of evil.ops"),
    "recursion": (lambda: calling({"f0": ["f1"], "f1": ["f0"]}), "without recursion"),
    "explosion": (
        lambda: calling({f"f{n}": [f"f{n + 1}"] * 10 for n in range(20)} | {"f20": []}),
        "nodes with all functions written out",
    ),
    "chain": (
        lambda: calling({f"f{n}": [f"f{n + 1}"] for n in range(3000)} | {"f3000": []}),
        "without recursion",
    ),
    "empty": (onnx.ModelProto, "without a graph"),
}


@pytest.mark.parametrize("kind", FILES)
def test_malicious_graph_is_rejected_before_loading(kind, tmp_path):
    make, reason = FILES[kind]
    path = write(make(), tmp_path / "m.onnx")
    began = time.monotonic()
    with pytest.raises(InputError, match=reason):
        OnnxPredictor(path)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", ["zero", "fifo", "folder", "missing", "link"])
def test_special_files_are_rejected_without_blocking(kind, tmp_path):
    path = tmp_path / "m.onnx"
    if kind == "zero":
        path = Path("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/zero")
    for opened in (OnnxPredictor, check_file, read_model):
        with pytest.raises(LimbeckError):
            opened(path)


def test_damaged_files_are_rejected_or_predict(tmp_path):
    """Two hundred files that are cut or changed at random end in one error, or in a prediction."""
    good, draw = product().SerializeToString(), random.Random(0)
    for number in range(200):
        content = bytearray(good[: draw.randrange(len(good))] if number % 2 else good)
        for _ in range(draw.randrange(1, 6)):
            if content:
                content[draw.randrange(len(content))] = draw.randrange(256)
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(content)
        with contextlib.suppress(LimbeckError):
            OnnxPredictor(path, threads=1).predict({"x": np.ones((1, 4), np.float32)})


def bomb() -> onnx.ModelProto:
    shape = numpy_helper.from_array(np.array([2**37], dtype=np.int64), "shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["total"], keepdims=0),
        helper.make_node("Add", ["x", "total"], ["logits"]),
    ]
    return model(nodes, [shape])


def endless() -> onnx.ModelProto:
    def value(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["on"]),
            helper.make_node("Sin", ["state"], ["next"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("going", TensorProto.BOOL, []),
         value("state", TensorProto.FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, None)],
    )  # fmt: skip
    forever = numpy_helper.from_array(np.array(2**62), "count")
    true = numpy_helper.from_array(np.array(True), "true")
    return model(
        [helper.make_node("Loop", ["count", "true", "x"], ["logits"], body=body)], [forever, true]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("make", "reason"), [(bomb, "GiB"), (endless, "in time")])
def test_excessive_time_or_memory_fails_in_the_limited_process(make, reason, tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.export.reading.SECONDS", 4.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=reason):
        probe(write(make(), tmp_path / "m.onnx"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
