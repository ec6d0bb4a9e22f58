"""How long does an answer take, beside others measured in the same minute?"""

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
"""Into how many consecutive blocks the rounds are divided, to show how a ratio varies."""

Call = Callable[[], object]

WARM_UP = 5
"""Untimed calls of each artefact before the first timed one."""

LEAST = 5
"""Timed calls of each artefact at least, however slow it is."""


def latencies(
    calls: Mapping[str, Call], *, threads: int, seconds: float = 2.0, most: int = 1000
) -> dict[str, Latency]:
    """Time several calls in turn, so that whatever disturbs the machine disturbs them all alike.

    Every round calls each once, and each round begins with another, so that none always follows the
    slowest.

    Args:
        calls: What to time, by name; each answers one sample.
        threads: How many threads the calls use; it is only noted.
        seconds: When to stop (after the round under way, and after five rounds at least).
        most: How many rounds at most.

    Returns:
        Percentiles of each call's time in milliseconds, and over how many runs.

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
    except (AttributeError, OSError):  # Windows has none
        return None


def throughput(call: Call, *, batch: int, seconds: float = 0.5) -> float:
    """Count the samples a second of a call that answers a whole batch, from its median time.

    Args:
        call: Answers one batch.
        batch: How many samples the batch holds.
        seconds: For how long to repeat it (three times at least).
    """
    call()
    times: list[int] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        times.append(_nanoseconds(call))
    median = float(np.median(times)) / 1e9
    return batch / median if median > 0 else math.inf
