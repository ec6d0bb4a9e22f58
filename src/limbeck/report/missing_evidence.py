"""Missing evidence: claims of a report that lack a measurement they need."""

from __future__ import annotations

from collections.abc import Iterator

from limbeck.evaluate.comparison import MetricComparison
from limbeck.report.result import RunResult
from limbeck.report.verdict import figures, first


def missing_evidence(result: RunResult) -> list[tuple[str, str]]:
    """Return the claims that lack evidence, each with what is missing.

    A saving needs both latency and memory, and the energy of training besides that of inference; a
    distillation gain needs a label-only baseline; a teacher needs its architecture, its training
    data and its accuracy; accuracy needs several seeds.
    """
    return [*_savings(result), *_teacher(result), *_gain(result), *_seeds(result)]


def _savings(result: RunResult) -> Iterator[tuple[str, str]]:
    found, shipped = figures(result), first(result.shipped)
    if found.latency is None:
        yield "Faster", "the latency was not measured."
    if shipped is None or not shipped.cost.peak_memory_bytes:
        yield "Faster", "the memory it takes was not measured, and may have grown."
    if shipped is None or shipped.cost.energy is None:
        yield "Greener", "the energy per inference was not measured."
    if not any(one.name.startswith("Energy of the training") for one in _findings(result)):
        yield "Greener", "what the training spent is not set beside what answers save."


def _teacher(result: RunResult) -> Iterator[tuple[str, str]]:
    teacher = result.recipe.get("teacher")
    if result.teacher is None:
        yield "Kept", "there was no teacher to hold the student against."
        return
    if not teacher:
        yield "Kept", "the architecture of the teacher is not known."
    if any(_weights(one) for one in (teacher if isinstance(teacher, list) else [teacher])):
        yield "Kept", "the teacher was trained elsewhere, on data that this run did not see."


def _weights(spec: object) -> bool:
    return isinstance(spec, dict) and bool(spec.get("weights"))


def _gain(result: RunResult) -> Iterator[tuple[str, str]]:
    if result.comparison is None:
        yield "Distilled", "no student was trained on labels alone: what the teacher added is open."


def _seeds(result: RunResult) -> Iterator[tuple[str, str]]:
    if len(result.seeds) < 2:
        yield "Accuracy", "one seed: another training may come out otherwise."


def _findings(result: RunResult) -> list[MetricComparison]:
    return list(result.evaluation.comparisons) if result.evaluation else []
