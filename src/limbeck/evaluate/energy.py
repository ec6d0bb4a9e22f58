"""Energy and CO2 per prediction: an estimate, since no portable meter measures one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Literal, get_args

from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.evaluate.cost import Energy
from limbeck.export.quiet import quiet
from limbeck.optional import available, require

Call = Callable[[], object]
Method = Literal["auto", "codecarbon", "cpu_time", "off"]

WATTS_A_CORE = 10.0
"""Approximate power of one busy core of a server or desktop processor; used without codecarbon."""

GRAMS_A_KWH = 475.0
"""Carbon dioxide per kilowatt hour, the world average of 2019 (IEA); used without codecarbon."""

JOULES_A_KWH = 3.6e6


def energy(
    calls: Mapping[str, Call],
    *,
    seconds: float = 1.0,
    method: Method = "auto",
    country: str = "USA",
) -> dict[str, Energy | None]:
    """Estimate the energy of one prediction of each call.

    Args:
        calls: Functions to run, by name; each predicts one sample.
        seconds: Seconds for which each call is repeated.
        method: `codecarbon` (offline: no network, nothing written); `cpu_time`, processor time
            times a fixed 10 W per core; `auto`, the first if it is installed; `off`, which gives
            `None` for each.
        country: ISO code of the country whose grid codecarbon assumes.

    Raises:
        InputError: The method is unknown, or codecarbon was requested and is not installed.

    Example:
        >>> energy({"sum": lambda: sum(range(100))}, seconds=0.01, method="cpu_time")["sum"].source
        'estimated (CPU time x 10 W a core, 475 g CO2 a kWh)'
    """
    if method not in get_args(Method):
        allowed = get_args(Method)
        advice = did_you_mean(method, allowed)
        raise InputError(Problem("energy", method, ", ".join(allowed), advice))
    if method == "off":
        return dict.fromkeys(calls)
    if method == "codecarbon" or (method == "auto" and available("codecarbon")):
        return _with_codecarbon(calls, seconds, country)
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


def _with_codecarbon(
    calls: Mapping[str, Call], seconds: float, country: str
) -> dict[str, Energy | None]:
    codecarbon = require("codecarbon", extra="energy")
    with quiet():
        tracker = _offline_tracker(codecarbon, country)
        found = {name: _task(tracker, name, call, seconds) for name, call in calls.items()}
        tracker.stop()
    source = f"estimated (codecarbon {codecarbon.__version__}, {country} grid)"
    return {
        name: Energy(
            joules=kwh * JOULES_A_KWH / count, grams_co2=kilograms * 1000 / count, source=source
        )
        for name, (kwh, kilograms, count) in found.items()
    }


def _offline_tracker(codecarbon: ModuleType, country: str) -> Any:
    # Every output is disabled by name: a configuration file in the user's home could enable one.
    return codecarbon.OfflineEmissionsTracker(
        country_iso_code=country,
        tracking_mode="process",
        allow_multiple_runs=True,
        save_to_file=False,
        save_to_api=False,
        save_to_logger=False,
        log_level="critical",
    )


def _task(tracker: Any, name: str, call: Call, seconds: float) -> tuple[float, float, int]:
    """Run one call under the tracker; return kilowatt hours, kilograms of CO2, and predictions."""
    call()
    tracker.start_task(name)
    count = _repeat(call, seconds)
    data = tracker.stop_task(name)
    return float(data.energy_consumed), float(data.emissions), count
