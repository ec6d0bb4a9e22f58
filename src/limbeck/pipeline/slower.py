"""Where few bits made a student slower: said, with what may have done it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from limbeck.evaluate.hardware import Hardware
from limbeck.report.result import Link

SLACK = 1.05
"""What chance may do to a latency."""

INTEGER = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Instruction sets with a product of eight-bit numbers."""


def slower(chain: Iterable[Link], hardware: Hardware) -> Iterator[str]:
    """Say of each quantising that took time instead of saving it what it took, and why.

    Args:
        chain: The links of a run, in order.
        hardware: What the latencies were measured on.
    """
    students = [link for link in chain if link.role == "student"]
    for before, after in pairwise(students):
        was, now = _latency(before), _latency(after)
        if after.stage == "quantize" and now > SLACK * was:
            yield (
                f"One answer takes {now:.3g} ms after quantising, and took {was:.3g} ms before: "
                f"{_reason(hardware)}."
            )


def _latency(link: Link) -> float:
    """Give the median at batch 1 on one thread, of the first seed's file."""
    return next(one.p50 for one in link.measured[0].cost.latency if one.threads == 1)


def _reason(hardware: Hardware) -> str:
    rounding = "rounding what flows between layers takes longer than products of few bits save"
    if INTEGER & set(hardware.flags):
        return f"{rounding}, or operators in between stayed in float"
    return f"this processor has no instruction for products of eight-bit numbers, so {rounding}"
