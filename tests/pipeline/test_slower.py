"""A student that few bits made slower is not praised in silence."""

import pytest

from limbeck.evaluate.costs import Cost, Latency
from limbeck.evaluate.hardware import Hardware
from limbeck.pipeline.results import latency_notes
from limbeck.report.result import Link, Measured


def link(stage: str, milliseconds: float, role: str = "student") -> Link:
    latency = (
        Latency.model_construct(threads=2, p50=9.0),
        Latency.model_construct(threads=1, p50=milliseconds),
    )
    measured = Measured.model_construct(cost=Cost.model_construct(latency=latency))
    return Link.model_construct(stage=stage, role=role, measured=(measured,))


def said(*links: Link, flags: tuple[str, ...] = ("avx2",)) -> list[str]:
    return list(latency_notes(links, Hardware.model_construct(flags=flags)))


def test_both_latencies_are_named():
    (note,) = said(
        link("train_teacher", 0.01, "teacher"), link("distill", 0.068), link("quantize", 0.161)
    )
    assert "0.161 ms" in note
    assert "0.068 ms" in note
    assert "no instruction" in note


def test_the_processor_is_not_blamed_for_what_it_has():
    (note,) = said(link("distill", 1.0), link("quantize", 2.0), flags=("avx2", "avx_vnni"))
    assert "no instruction" not in note


@pytest.mark.parametrize(
    ("before", "after"),
    [(1.0, 0.4), (1.0, 1.04)],
)
def test_nothing_is_said_of_what_is_faster_or_as_fast(before, after):
    assert said(link("distill", before), link("quantize", after)) == []


def test_other_stages_may_take_time():
    assert said(link("prune", 1.0), link("distill", 2.0)) == []
