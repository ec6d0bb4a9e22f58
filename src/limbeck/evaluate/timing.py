"""Latency of several calls, interleaved, and throughput."""

from __future__ import annotations

import gc
import itertools
import math
import os
import time
from collections.abc import Callable, Mapping

import numpy as np

from limbeck.errors import InputError, Problem
from limbeck.evaluate.cost import Latency

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

    Returns:
        Percentiles of each call's time in milliseconds, and the number of runs.

    Example:
        >>> times = latencies({"sum": lambda: sum(range(100))}, threads=1, seconds=0.01)
        >>> times["sum"].p50 > 0
        True
    """
    if not calls:
        raise InputError(Problem("calls", "none", "at least one call to time"))
    for _, call in itertools.product(range(WARM_UP), calls.values()):
        call()
    times = _rounds(calls, time.perf_counter() + seconds, most)
    return {name: _latency(values, threads) for name, values in times.items()}


def _rounds(calls: Mapping[str, Call], end: float, most: int) -> dict[str, list[int]]:
    names = list(calls)
    times: dict[str, list[int]] = {name: [] for name in names}
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
    return times


def _nanoseconds(call: Call) -> int:
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


def _latency(nanoseconds: list[int], threads: int) -> Latency:
    p10, p50, p90, p99 = (float(v) / 1e6 for v in np.percentile(nanoseconds, [10, 50, 90, 99]))
    blocks = np.array_split(np.asarray(nanoseconds), min(BLOCKS, len(nanoseconds)))
    return Latency(
        threads=threads,
        p50=p50,
        p90=p90,
        p99=p99,
        runs=len(nanoseconds),
        p10=p10,
        blocks=tuple(float(np.median(block)) / 1e6 for block in blocks),
        load=_load(),
    )


def _load() -> float | None:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):  # not on Windows
        return None


def throughput(call: Call, *, batch: int, seconds: float = 0.5) -> float:
    """Compute the samples per second of a call on a batch, from its median time.

    Args:
        call: Predicts one batch.
        batch: Number of samples in the batch.
        seconds: Time for which it is repeated (at least three times).
    """
    call()
    times: list[int] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        times.append(_nanoseconds(call))
    median = float(np.median(times)) / 1e9
    return batch / median if median > 0 else math.inf
