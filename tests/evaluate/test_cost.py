"""Inference cost: interleaved latencies, memory in a fresh process, estimated energy."""

from __future__ import annotations

import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from limbeck.errors import InputError, LimbeckError
from limbeck.evaluate import hardware
from limbeck.evaluate.measure import (
    LEAST,
    WARM_UP,
    Artefact,
    energy,
    latencies,
    measure,
    peak_memory,
    throughput,
)


def product(path, size: int):
    """Write a file that multiplies `x [batch, size]` by a square matrix of ones."""
    matrix = numpy_helper.from_array(np.ones((size, size), dtype=np.float32), "matrix")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "matrix"], ["logits"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", size])],
        [matrix],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return product(tmp_path_factory.mktemp("files") / "small.onnx", 8)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return product(tmp_path_factory.mktemp("files") / "large.onnx", 4096)


def test_calls_are_interleaved_and_each_begins_a_round():
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    found = latencies(calls, threads=3, seconds=10, most=6)
    assert order[: 3 * WARM_UP] == list("abc") * WARM_UP
    rounds = [order[i : i + 3] for i in range(3 * WARM_UP, len(order), 3)]
    assert [r[0] for r in rounds] == list("abcabc")
    assert all(sorted(r) == list("abc") for r in rounds)
    assert {(one.runs, one.threads) for one in found.values()} == {(6, 3)}


def test_times_are_milliseconds_in_order():
    found = latencies({"nap": lambda: time.sleep(0.004)}, threads=1, seconds=0.2)["nap"]
    assert 4 <= found.p50 <= found.p90 <= found.p99
    assert found.p50 < 20


def test_a_slow_call_is_still_timed_a_few_times_and_no_more():
    start = time.perf_counter()
    found = latencies({"slow": lambda: time.sleep(0.02)}, threads=1, seconds=0.01)["slow"]
    assert found.runs == LEAST
    assert time.perf_counter() - start < 2


def test_nothing_to_time_is_refused():
    with pytest.raises(InputError, match="at least one call"):
        latencies({}, threads=1)


def test_throughput_is_samples_a_second():
    assert 500 < throughput(lambda: time.sleep(0.01), batch=10, seconds=0.1) <= 1000


def test_memory_includes_the_weights_and_not_this_process(large):
    ballast = np.ones(300 * 2**20, dtype=np.uint8)  # which a child's ru_maxrss would inherit
    found = peak_memory(large, {"x": np.ones((1, 4096), dtype=np.float32)})
    assert ballast.sum() > 0
    weights = 4096 * 4096 * 4
    assert weights < found < 5 * weights


def test_a_small_file_takes_little_memory(small, large):
    feeds = {"x": np.ones((1, 8), dtype=np.float32)}
    assert peak_memory(small, feeds) < 60 * 2**20


def test_a_failed_memory_measurement_is_one_message(small):
    with pytest.raises(LimbeckError, match=r"memory could not be measured: .*x"):
        peak_memory(small, {"x": np.ones((1, 9), dtype=np.float32)})


def test_energy_from_cpu_time_is_watts_times_seconds():
    def busy() -> None:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    found = energy({"busy": busy}, seconds=0.1, method="cpu_time")["busy"]
    assert found.joules == pytest.approx(0.2, rel=0.2)  # 20 ms at 10 W
    assert found.grams_co2 == pytest.approx(found.joules / 3.6e6 * 475)
    assert "estimated" in found.source


def test_energy_can_be_left_out_and_a_wrong_name_is_refused():
    assert energy({"a": int}, method="off") == {"a": None}
    with pytest.raises(InputError, match='did you mean "codecarbon"'):
        energy({"a": int}, method="codecarbn")


def test_energy_from_codecarbon_needs_no_network_and_writes_nothing(tmp_path, monkeypatch, capfd):
    pytest.importorskip("codecarbon")
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("energy went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    calls = {name: lambda: sum(range(1000)) for name in "ab"}
    found = energy(calls, seconds=0.3, method="codecarbon")
    assert set(found) == {"a", "b"}
    assert all(1e-9 < one.joules < 1 for one in found.values())
    assert all(one.source.startswith("estimated (codecarbon ") for one in found.values())
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_files_are_measured_side_by_side(small, large):
    files = {"small": Artefact(small, 64, 128), "large": Artefact(large, 4096**2, 2 * 4096**2)}
    with pytest.raises(LimbeckError, match="cannot run it"):  # the example must fit every file
        measure(files, {"x": np.ones((1, 8))}, energy_method="off")
    files = {"one": Artefact(small, 64, 128), "two": Artefact(small, 64, 128)}
    found = measure(
        files, {"x": np.ones((3, 8)), "labels": np.zeros(3)}, seconds=0.2, energy_method="cpu_time"
    )
    for cost in found.values():
        assert cost.size_bytes == small.stat().st_size
        assert (cost.parameters, cost.flops, cost.throughput_batch) == (64, 128, 64)
        assert [one.threads for one in cost.latency] == sorted({1, hardware.describe().cores})
        assert cost.throughput > 1000
        assert cost.energy.joules > 0
    assert found["one"].latency[0].runs == found["two"].latency[0].runs


def test_this_machine_is_described():
    found = hardware.describe()
    assert found.processor
    assert found.cores >= 1
    assert found.memory_bytes > 2**28
    assert set(found.flags) <= set(hardware.MATTERS)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_linux_flags_are_those_of_the_processor():
    listed = hardware.CPUINFO.read_text()
    assert all(flag in listed for flag in hardware.describe().flags)


ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd asimddp i8mm bf16 sve
CPU implementer\t: 0x41
"""


def test_arm_and_machines_without_proc(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    assert hardware.describe().flags == ()
    assert hardware.describe().processor
    (tmp_path / "cpuinfo").write_text(ARM)
    assert hardware.describe().flags == ("asimd", "asimddp", "i8mm", "bf16", "sve")
