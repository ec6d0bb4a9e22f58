"""Inference cost: file size, parameters, FLOPs, latency, throughput, peak memory and energy."""

from __future__ import annotations

from operator import truediv

from limbeck.core.measurement import Result

UNSTEADY = 1.5
"""Ratio of the 90th percentile to the median above which a latency is called unsteady."""


class Latency(Result):
    """The latency of one prediction in ms at batch 1, over `runs` timed calls after warm-up.

    Attributes:
        threads: Number of threads of the call.
        p50: The median; the other percentiles likewise. `p10` is None in files of earlier versions.
        blocks: The medians of up to ten consecutive blocks of the calls. Artefacts that are
            measured together share their blocks, so that a ratio of two has one value per block.
        load: The machine's load average over the last minute, divided by its cores; None where the
            system reports none.
    """

    threads: int
    p50: float
    p90: float
    p99: float
    runs: int
    p10: float | None = None
    blocks: tuple[float, ...] = ()
    load: float | None = None

    @property
    def steady(self) -> bool:
        """Return whether the 90th percentile is within 1.5 times the median."""
        return self.p90 <= UNSTEADY * self.p50


def latency_ratio(above: Latency, below: Latency) -> tuple[float, float] | None:
    """Return the range of the ratio `above / below` over the blocks in which both were measured.

    Of ten blocks, the lowest and the highest ratio are left out, since one disturbance affects one
    block. None if the two were not measured together.

    Example:
        >>> slow = Latency(threads=1, p50=4, p90=4, p99=4, runs=3, blocks=(4.0, 4.2, 3.8))
        >>> fast = Latency(threads=1, p50=2, p90=2, p99=2, runs=3, blocks=(2.0, 2.0, 2.0))
        >>> latency_ratio(slow, fast)
        (1.9, 2.1)
    """
    if not above.blocks or len(above.blocks) != len(below.blocks) or not all(below.blocks):
        return None
    ratios = sorted(map(truediv, above.blocks, below.blocks))
    cut = len(ratios) // 10
    return ratios[cut], ratios[-1 - cut]


class Energy(Result):
    """The energy of one prediction; an estimate unless `source` states that it was measured."""

    joules: float
    grams_co2: float
    source: str


class Cost(Result):
    """The inference cost of an artefact; `flops` counts a multiply-add as two, for one sample."""

    size_bytes: int
    parameters: int
    flops: int
    latency: tuple[Latency, ...]
    throughput: float
    throughput_batch: int
    peak_memory_bytes: int
    energy: Energy | None
