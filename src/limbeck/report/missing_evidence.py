"""Missing evidence: claims of a report that lack a measurement they need."""

from __future__ import annotations

from collections.abc import Iterator

from limbeck.report.result import RunResult
from limbeck.report.verdict import figures, first


def missing_evidence(result: RunResult) -> list[tuple[str, str]]:
    """Return the claims that lack evidence, each with the missing measurement.

    Efficiency needs latency, memory, and the energy of training besides that of inference; a
    distillation gain needs a label-only baseline; the retained score needs a teacher of known
    architecture and training data; the score needs several seeds.
    """
    return list(_missing(result))


def _missing(result: RunResult) -> Iterator[tuple[str, str]]:
    shipped = first(result.shipped)
    if figures(result).latency is None:
        yield "Latency", "The latency was not measured."
    if shipped is None or not shipped.cost.peak_memory_bytes:
        yield "Memory", "The peak memory was not measured; it may have grown."
    if shipped is None or shipped.cost.energy is None:
        yield "Energy", "The energy per inference was not measured."
    comparisons = result.evaluation.comparisons if result.evaluation else ()
    if not any(one.name.startswith("Energy of the training") for one in comparisons):
        yield "Energy", "The energy of the training was not compared with that of inference."
    teacher, retained = result.recipe.get("teacher"), f"Retained {result.metric.text}"
    if result.teacher is None:
        yield retained, "There was no teacher to compare the student with."
    elif not teacher:
        yield retained, "The architecture of the teacher is not known."
    elif any(_is_pretrained(one) for one in (teacher if isinstance(teacher, list) else [teacher])):
        yield (
            retained,
            "The teacher was trained elsewhere, on data that are not part of this run.",
        )
    if result.comparison is None:
        yield "Distillation gain", "No label-only baseline was trained: the gain is unknown."
    if len(result.seeds) < 2:
        yield result.metric.title, "One seed: the variation between trainings is unknown."


def _is_pretrained(teacher: object) -> bool:
    return isinstance(teacher, dict) and bool(teacher.get("checkpoint"))
