"""Measurement of latency, throughput, peak memory and energy."""

from __future__ import annotations

import gc
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from limbeck.core.imports import available, require
from limbeck.core.process import run_limited
from limbeck.core.samples import BATCH, count_samples
from limbeck.errors import InputError, LimbeckError, Problem, check_choice
from limbeck.evaluate.costs import Cost, Energy, Latency
from limbeck.evaluate.hardware import describe
from limbeck.export.predictor import OnnxPredictor, take_samples
from limbeck.export.quiet import quiet

BLOCKS = 10
"""Number of consecutive blocks of rounds, which show how a ratio varies."""

Call = Callable[[], object]
WARM_UP = 5
"""Warm-up calls of each artefact."""

LEAST = 5
"""Minimal number of timed calls of each artefact, however slow it is."""


def latencies(
    calls: Mapping[str, Call], *, threads: int, seconds: float = 2.0, most: int = 1000
) -> dict[str, Latency]:
    """Measure the latency of several calls, interleaved, so that disturbances affect all alike.

    Every round runs each call once, in rotating order, so that none always follows the slowest.

    Args:
        calls: Functions to time, by name; each predicts one sample.
        threads: Number of threads of the calls; it is only recorded.
        seconds: Time after which to stop (at the end of a round, after at least five).
        most: Largest number of rounds.

    Example:
        >>> times = latencies({"sum": lambda: sum(range(100))}, threads=1, seconds=0.01)
        >>> times["sum"].p50 > 0
        True
    """
    if not calls:
        raise InputError(Problem("calls", "none", "at least one call to time"))
    for _, call in itertools.product(range(WARM_UP), calls.values()):
        call()
    names, times = list(calls), {name: list[int]() for name in calls}
    end = time.perf_counter() + seconds
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(max(most, LEAST)):
            if turn >= LEAST and time.perf_counter() > end:
                break
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                times[name].append(_nanoseconds(calls[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: _latency(values, threads) for name, values in times.items()}


def mean_latencies(
    paths: Mapping[str, Path],
    samples: Sequence[Mapping[str, NDArray[Any]]],
    *,
    seconds: float = 2.0,
    most: int = 50,
) -> dict[str, float]:
    """Measure the mean latency over samples in ms, at batch 1 on one thread, files interleaved.

    It is the mean over samples of the median of each sample's calls: for files whose time depends
    on the sample, where one disturbance must not decide.

    Args:
        paths: The ONNX files, by name.
        samples: The inputs of each sample.
        seconds: Time after which to stop (at the end of a round, after at least three).
        most: Largest number of rounds; each predicts every sample once with every file.
    """
    calls = {name: call_in_turn(path, samples, 1) for name, path in paths.items()}
    times = {name: list[list[int]]() for name in paths}
    end = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < most:
        rows = {name: list[int]() for name in paths}
        for _ in samples:
            for name, call in calls.items():
                rows[name].append(_nanoseconds(call))
        for name, row in rows.items():
            times[name].append(row)
        done = len(next(iter(times.values())))
        if done >= 3 and time.perf_counter() > end:
            break
    return {name: float(np.median(one, axis=0).mean()) / 1e6 for name, one in times.items()}


def _nanoseconds(call: Call) -> int:
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


def _latency(nanoseconds: list[int], threads: int) -> Latency:
    p10, p50, p90, p99 = (float(v) / 1e6 for v in np.percentile(nanoseconds, [10, 50, 90, 99]))
    blocks = np.array_split(np.asarray(nanoseconds), min(BLOCKS, len(nanoseconds)))
    try:
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):  # not on Windows
        load = None
    return Latency(
        threads=threads,
        p50=p50,
        p90=p90,
        p99=p99,
        runs=len(nanoseconds),
        p10=p10,
        blocks=tuple(float(np.median(block)) / 1e6 for block in blocks),
        load=load,
    )


def throughput(call: Call, *, batch: int, seconds: float = 0.5) -> float:
    """Compute the samples per second of a call on a batch, from its median time.

    The call predicts `batch` samples; it is repeated for some seconds, and at least three times.
    """
    call()
    times: list[int] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        times.append(_nanoseconds(call))
    median = float(np.median(times)) / 1e9
    return batch / median if median > 0 else math.inf


TIMEOUT = 120.0
PROBE = Path(__file__).with_name("_memory_probe.py")


def peak_memory(path: Path, feeds: Mapping[str, NDArray[Any]]) -> int:
    """Measure the peak memory growth of a fresh process that loads a file and predicts once.

    The process imports numpy and ONNX Runtime only; their memory is not counted. One thread.

    Args:
        path: The ONNX file.
        feeds: The graph's inputs, by name, in the graph's types.

    Returns:
        Bytes of resident memory beyond those of the process before it loaded the file.

    Raises:
        LimbeckError: The process failed or took more than two minutes of CPU time.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "feeds.npz"
        np.savez(inputs, allow_pickle=False, **dict(feeds))
        command = [sys.executable, "-I", str(PROBE), str(path.resolve()), str(inputs)]
        try:
            done = run_limited(command, seconds=TIMEOUT)
            done.check_returncode()
        except subprocess.TimeoutExpired as error:
            reason = f"the process did not end within {TIMEOUT:g} s of computing"
            raise LimbeckError(f"{path}: memory could not be measured: {reason}") from error
        except subprocess.CalledProcessError as error:
            [reason] = (error.stderr or "").strip().splitlines()[-1:] or ["no message"]
            raise LimbeckError(f"{path}: memory could not be measured: {reason}") from error
    return int(done.stdout)


Method = Literal["auto", "codecarbon", "cpu_time", "off"]
WATTS_A_CORE = 10.0
"""Approximate power of one busy core of a server or desktop processor; used without codecarbon."""

GRAMS_A_KWH = 475.0
"""Carbon dioxide per kilowatt hour, the world average of 2019 (IEA); used without codecarbon."""

JOULES_A_KWH = 3.6e6
COUNTRY = "USA"
"""ISO code of the country whose grid codecarbon assumes."""


def energy(
    calls: Mapping[str, Call], *, seconds: float = 1.0, method: Method = "auto"
) -> dict[str, Energy | None]:
    """Estimate the energy of one prediction of each call.

    Args:
        calls: Functions to run, by name; each predicts one sample.
        seconds: Seconds for which each call is repeated.
        method: `codecarbon` (offline: no network, nothing written); `cpu_time`, processor time
            times a fixed 10 W per core; `auto`, the first if it is installed; `off`, which returns
            `None` for each.

    Raises:
        InputError: The method is unknown, or codecarbon was requested and is not installed.

    Example:
        >>> energy({"sum": lambda: sum(range(100))}, seconds=0.01, method="cpu_time")["sum"].source
        'estimated (CPU time x 10 W a core, 475 g CO2 a kWh)'
    """
    check_choice(method, get_args(Method), where="energy")
    if method == "off":
        return dict.fromkeys(calls)
    if method == "codecarbon" or (method == "auto" and available("codecarbon")):
        return _with_codecarbon(calls, seconds)
    return {name: _with_cpu_time(call, seconds) for name, call in calls.items()}


def _repeat(call: Call, seconds: float) -> int:
    count, end = 0, time.perf_counter() + seconds
    while count == 0 or time.perf_counter() < end:
        call()
        count += 1
    return count


def _with_cpu_time(call: Call, seconds: float) -> Energy:
    call()
    start = time.process_time()
    count = _repeat(call, seconds)
    joules = (time.process_time() - start) * WATTS_A_CORE / count
    return Energy(
        joules=joules,
        grams_co2=joules / JOULES_A_KWH * GRAMS_A_KWH,
        source=f"estimated (CPU time x {WATTS_A_CORE:g} W a core, {GRAMS_A_KWH:g} g CO2 a kWh)",
    )


def _with_codecarbon(calls: Mapping[str, Call], seconds: float) -> dict[str, Energy | None]:
    codecarbon = require("codecarbon", extra="energy")
    source = f"estimated (codecarbon {codecarbon.__version__}, {COUNTRY} grid)"
    found: dict[str, Energy | None] = {}
    with quiet():
        # Every output is disabled by name: a configuration file in the user's home could enable it.
        tracker = codecarbon.OfflineEmissionsTracker(
            country_iso_code=COUNTRY,
            tracking_mode="process",
            allow_multiple_runs=True,
            save_to_file=False,
            save_to_api=False,
            save_to_logger=False,
            log_level="critical",
        )
        for name, call in calls.items():
            call()
            tracker.start_task(name)
            count = _repeat(call, seconds)
            data = tracker.stop_task(name)
            found[name] = Energy(
                joules=float(data.energy_consumed) * JOULES_A_KWH / count,
                grams_co2=float(data.emissions) * 1000 / count,
                source=source,
            )
        tracker.stop()
    return found


THROUGHPUT_BATCH = 64
ENERGY_SECONDS = 0.2
"""Minimal seconds for the energy measurement of a file."""


@dataclass(frozen=True)
class Artefact:
    """An ONNX file to measure, with the parameters and FLOPs of its torch model."""

    path: Path
    parameters: int
    flops: int


def measure(
    artefacts: Mapping[str, Artefact],
    example: Mapping[str, Any],
    *,
    several: Mapping[str, Any] | None = None,
    seconds: float = 2.0,
    throughput_seconds: float = 0.5,
    energy_method: Method = "auto",
    samples: int = 1,
) -> dict[str, Cost]:
    """Measure every artefact's cost, latencies interleaved.

    Latency is at batch 1, with one thread and then with every core; throughput with every core;
    memory and energy with one thread at batch 1.

    Args:
        artefacts: The files, by name.
        example: A batch of at least one sample with the inputs of every artefact; other entries are
            ignored. Inputs without an axis `batch`, such as those of a graph, are one sample's.
        several: A batch for the throughput; by default the samples of `example`, repeated. Inputs
            without an axis `batch` belong to all of its samples, so that it is needed for them.
        seconds: Time for the latencies of all artefacts together, per number of threads; half of it
            is for their energy.
        throughput_seconds: Time for the throughput of each artefact.
        energy_method: See `energy`.
        samples: The number of samples of the example that calls at batch 1 predict in turn: more
            than one where the time depends on the sample, as with early exits.
    """
    axes = OnnxPredictor(next(iter(artefacts.values())).path, threads=1).axes
    each = [take_samples(example, axes, [number]) for number in range(samples)]
    one, repeatable = each[0], all(BATCH in names for names in axes.values())
    if repeatable or several is None:
        size = THROUGHPUT_BATCH if repeatable else 1
        many = take_samples(example, axes, range(size))
    else:
        many = {name: np.asarray(value) for name, value in several.items()}
        size = count_samples({name: many[name] for name in axes}, axes)
    threads = sorted({1, describe().cores})
    times = {
        count: latencies(_calls(artefacts, each, count), threads=count, seconds=seconds)
        for count in threads
    }
    joules = energy(
        _calls(artefacts, each, 1),
        method=energy_method,
        seconds=max(ENERGY_SECONDS, seconds / 2 / len(artefacts)),
    )

    def peak(artefact: Artefact) -> int:
        return peak_memory(artefact.path, OnnxPredictor(artefact.path, threads=1).feeds(one))

    # Several processes at a time: they are independent.
    with ThreadPoolExecutor(describe().cores) as pool:
        memory = dict(zip(artefacts, pool.map(peak, artefacts.values()), strict=True))
    return {
        name: Cost(
            size_bytes=artefact.path.stat().st_size,
            parameters=artefact.parameters,
            flops=artefact.flops,
            latency=tuple(times[count][name] for count in threads),
            throughput=throughput(
                _call(artefact.path, many, None), batch=size, seconds=throughput_seconds
            ),
            throughput_batch=size,
            peak_memory_bytes=memory[name],
            energy=joules[name],
        )
        for name, artefact in artefacts.items()
    }


def _calls(
    artefacts: Mapping[str, Artefact], samples: Sequence[dict[str, NDArray[Any]]], threads: int
) -> dict[str, Call]:
    return {
        name: call_in_turn(artefact.path, samples, threads) for name, artefact in artefacts.items()
    }


def call_in_turn(
    path: Path, samples: Sequence[Mapping[str, NDArray[Any]]], threads: int | None
) -> Call:
    """Return a function that predicts the next of some samples with a file, in rotation."""
    predictor = OnnxPredictor(path, threads=threads)
    feeds = itertools.cycle([predictor.feeds(one) for one in samples])
    return lambda: predictor.predict(next(feeds))


def _call(path: Path, batch: dict[str, NDArray[Any]], threads: int | None) -> Call:
    return call_in_turn(path, [batch], threads)
