"""Latency notes: slowdown after quantisation with likely causes, and unsteady latencies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from limbeck.evaluate.cost import Latency, latency_ratio
from limbeck.evaluate.hardware import Hardware
from limbeck.report.result import Link

SLACK = 1.05
"""Allowed random variation of a latency."""

INTEGER = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Instruction sets with int8 products."""


def slower(chain: Iterable[Link], hardware: Hardware) -> Iterator[str]:
    """Yield a note for each quantisation that increased the latency, with likely causes.

    Args:
        chain: The links of a run, in order.
        hardware: The hardware of the latency measurements.
    """
    students = [link for link in chain if link.role == "student"]
    for before, after in pairwise(students):
        was, now = _latency(before), _latency(after)
        varies = latency_ratio(now, was)
        surely = varies is None or varies[0] > 1  # in nearly every block of the measurement
        if after.stage == "quantize" and now.p50 > SLACK * was.p50 and surely:
            yield (
                f"One answer takes {now.p50:.3g} ms after quantising, and took {was.p50:.3g} ms "
                f"before: {_reason(hardware)}."
            )


def unsteady(chain: Sequence[Link]) -> Iterator[str]:
    """Yield a warning where the 90th percentile of a latency is far above the median.

    Args:
        chain: The links of a run, in order.
    """
    timed = [(link.label, _latency(link)) for link in chain]
    shaken = [(label, one) for label, one in timed if not one.steady]
    if not shaken:
        return
    label, worst = max(shaken, key=lambda pair: pair[1].p90 / pair[1].p50)
    load = "" if worst.load is None else f"; the load average was {worst.load:.1f} for each core"
    yield (
        f"Latencies are inconclusive: for {label}, the 90th percentile is "
        f"{worst.p90 / worst.p50:.1f} times the median{load}. Measure again on a quiet machine."
    )


def _latency(link: Link) -> Latency:
    """Return the latency at batch 1 on one thread, of the first seed's file."""
    return next(one for one in link.measured[0].cost.latency if one.threads == 1)


def _reason(hardware: Hardware) -> str:
    rounding = "rounding what flows between layers takes longer than products of few bits save"
    if INTEGER & set(hardware.flags):
        return f"{rounding}, or operators in between stayed in float"
    return f"this processor has no instruction for products of eight-bit numbers, so {rounding}"
