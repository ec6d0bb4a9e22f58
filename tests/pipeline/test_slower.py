"""A note reports a quantised student that is slower."""

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


def notes(*links: Link, flags: tuple[str, ...] = ("avx2",)) -> list[str]:
    return list(latency_notes(links, Hardware.model_construct(flags=flags)))


def test_the_note_has_both_latencies():
    (note,) = notes(
        link("train_teacher", 0.01, "teacher"), link("distill", 0.068), link("quantize", 0.161)
    )
    assert "0.161 ms" in note
    assert "0.068 ms" in note
    assert "no int8 dot products" in note


def test_existing_instructions_are_not_named_as_the_cause():
    (note,) = notes(link("distill", 1.0), link("quantize", 2.0), flags=("avx2", "avx_vnni"))
    assert "no int8 dot products" not in note


@pytest.mark.parametrize(("before", "after"), [(1.0, 0.4), (1.0, 1.04)])
def test_no_note_without_a_clear_slowdown(before, after):
    assert notes(link("distill", before), link("quantize", after)) == []


def test_no_note_after_other_stages():
    assert notes(link("prune", 1.0), link("distill", 2.0)) == []
