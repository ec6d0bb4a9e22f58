"""What does an answer cost: bytes, parameters, operations, time, memory, energy?"""

from __future__ import annotations

from limbeck.evaluate.interval import Result


class Latency(Result):
    """Time of one answer in milliseconds at batch 1, over `runs` timed calls after warm-up."""

    threads: int
    p50: float
    p90: float
    p99: float
    runs: int


class Energy(Result):
    """Energy of one answer; always an estimate unless the source says measured."""

    joules: float
    grams_co2: float
    source: str


class Cost(Result):
    """All that an artefact costs; `flops` counts a multiply-add as two, for one sample."""

    size_bytes: int
    parameters: int
    flops: int
    latency: tuple[Latency, ...]
    throughput: float
    throughput_batch: int
    peak_memory_bytes: int
    energy: Energy | None
