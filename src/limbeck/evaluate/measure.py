"""Inference cost of artefacts, measured side by side on the exported files."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.cost import Cost, Energy, Latency
from limbeck.evaluate.energy import Method, energy
from limbeck.evaluate.hardware import describe
from limbeck.evaluate.memory import peak_memory
from limbeck.evaluate.timing import latencies, throughput
from limbeck.export.predictor import OnnxPredictor

ENERGY_SECONDS = 0.2
"""Minimal seconds for the energy measurement of a file."""


@dataclass(frozen=True)
class Artefact:
    """A file to measure, with the counts taken from its torch model.

    Attributes:
        path: The ONNX file.
        parameters: `flops.parameters` of the model.
        flops: `flops.flops` of the model for one sample.
    """

    path: Path
    parameters: int
    flops: int


def measure(
    artefacts: Mapping[str, Artefact],
    example: Mapping[str, Any],
    *,
    seconds: float = 2.0,
    throughput_seconds: float = 0.5,
    throughput_batch: int = 64,
    energy_method: Method = "auto",
) -> dict[str, Cost]:
    """Measure every artefact's cost, latencies interleaved.

    Latency is at batch 1, with one thread and then with every core; throughput with every core;
    memory and energy with one thread at batch 1.

    Args:
        artefacts: The files, by name.
        example: A batch of at least one sample with the inputs of every artefact; other entries are
            ignored.
        seconds: Time for the latencies of all artefacts together, per number of threads; half of it
            is for their energy.
        throughput_seconds: Time for the throughput of each artefact.
        throughput_batch: Batch size of the throughput measurement.
        energy_method: See `energy.energy`.
    """
    one = _samples(example, 1)
    many = _samples(example, throughput_batch)
    threads = sorted({1, describe().cores})
    times = {count: _latencies(artefacts, one, count, seconds) for count in threads}
    joules = _energy(
        artefacts, one, energy_method, max(ENERGY_SECONDS, seconds / 2 / len(artefacts))
    )
    memory = _memory(artefacts, one)
    return {
        name: Cost(
            size_bytes=artefact.path.stat().st_size,
            parameters=artefact.parameters,
            flops=artefact.flops,
            latency=tuple(times[count][name] for count in threads),
            throughput=_throughput(artefact.path, many, throughput_batch, throughput_seconds),
            throughput_batch=throughput_batch,
            peak_memory_bytes=memory[name],
            energy=joules[name],
        )
        for name, artefact in artefacts.items()
    }


def _samples(example: Mapping[str, Any], count: int) -> dict[str, NDArray[Any]]:
    """Return `count` samples, repeated where there are fewer."""
    arrays = {name: np.asarray(value) for name, value in example.items()}
    return {
        name: np.take(array, range(count), axis=0, mode="wrap") for name, array in arrays.items()
    }


def _latencies(
    artefacts: Mapping[str, Artefact], one: dict[str, NDArray[Any]], threads: int, seconds: float
) -> dict[str, Latency]:
    calls = {name: _call(artefact.path, one, threads) for name, artefact in artefacts.items()}
    return latencies(calls, threads=threads, seconds=seconds)


def _call(path: Path, batch: dict[str, NDArray[Any]], threads: int | None) -> partial[Any]:
    predictor = OnnxPredictor(path, threads=threads)
    return partial(predictor.predict, predictor.feeds(batch))


def _energy(
    artefacts: Mapping[str, Artefact],
    one: dict[str, NDArray[Any]],
    method: Method,
    seconds: float,
) -> dict[str, Energy | None]:
    calls = {name: _call(artefact.path, one, 1) for name, artefact in artefacts.items()}
    return energy(calls, method=method, seconds=seconds)


def _throughput(path: Path, many: dict[str, NDArray[Any]], batch: int, seconds: float) -> float:
    return throughput(_call(path, many, None), batch=batch, seconds=seconds)


def _memory(artefacts: Mapping[str, Artefact], one: dict[str, NDArray[Any]]) -> dict[str, int]:
    """Measure the peak memory of each file, several processes at a time: they are independent."""

    def peak(artefact: Artefact) -> int:
        return peak_memory(artefact.path, OnnxPredictor(artefact.path, threads=1).feeds(one))

    with ThreadPoolExecutor(describe().cores) as pool:
        return dict(zip(artefacts, pool.map(peak, artefacts.values()), strict=True))
