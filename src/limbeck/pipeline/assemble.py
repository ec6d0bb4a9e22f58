"""Aggregation of the results of all seeds into one run result."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from limbeck.evaluate.cost import Latency
from limbeck.evaluate.hardware import describe
from limbeck.evaluate.interval import summarize
from limbeck.pipeline.apart import SIMILARITY_TEMPERATURE
from limbeck.pipeline.candidate import Candidate
from limbeck.pipeline.examine import Examination
from limbeck.pipeline.slower import slower, unsteady
from limbeck.pipeline.statements import hold
from limbeck.pipeline.teacher_checks import chance_notes
from limbeck.pipeline.versions import git_commit, versions
from limbeck.report.result import (
    BudgetCheck,
    Comparison,
    Curve,
    DataFacts,
    Environment,
    Link,
    RunResult,
)

if TYPE_CHECKING:
    from limbeck.data.load import Data
    from limbeck.evaluate.evaluation import Evaluation
    from limbeck.pipeline.recipe import Budget, Recipe


def assemble(
    *,
    recipe: Recipe,
    data: Data,
    lineages: list[Candidate],
    examinations: list[Examination],
    evaluation: Evaluation | None,
    started: datetime,
    seconds: float,
    command: str,
) -> RunResult:
    """Build the run result from the seeds' metrics: means, intervals and budget checks."""
    links = list(_links(lineages, examinations))
    chain = tuple(link for link in links if link.role != "baseline")
    baseline, twin = _pair(links)
    first, hardware = examinations[0], describe()
    return RunResult(
        name=recipe.name,
        task=recipe.task,
        recipe=recipe.model_dump(mode="json"),
        seeds=tuple(recipe.seeds),
        data=DataFacts.model_validate(data.facts, from_attributes=True),
        chain=chain,
        baseline=baseline,
        comparison=_comparison(twin, baseline),
        budget=tuple(_budget(recipe.budget, chain)),
        curves=tuple(_curves(lineages)),
        class_similarity=first.class_similarity,
        similarity_temperature=SIMILARITY_TEMPERATURE,
        disagreements=first.disagreements,
        disagreement_count=first.disagreement_count,
        evaluation=evaluation,
        environment=Environment(
            hardware=hardware,
            versions=versions(),
            git_commit=git_commit(),
            command=command,
            started=started.isoformat(timespec="seconds"),
            seconds=seconds,
        ),
        notes=(*_notes(recipe, data, lineages), *slower(chain, hardware), *unsteady(chain)),
    )


def _links(lineages: list[Candidate], examinations: list[Examination]) -> Iterator[Link]:
    for number, link in enumerate(lineages[0].lineage):
        for artefact in link.record.artefacts:
            measured = tuple(examined.find(number, artefact.role) for examined in examinations)
            yield Link(
                stage=link.record.stage,
                label=artefact.label,
                role=artefact.role,
                what="labels alone" if artefact.role == "baseline" else link.record.what,
                seconds=summarize([lineage.lineage[number].record.seconds for lineage in lineages]),
                measured=measured,
                accuracy=summarize([one.accuracy.value for one in measured], bounds=(0.0, 1.0)),
                notes=link.record.notes,
            )


def _pair(links: list[Link]) -> tuple[Link | None, Link | None]:
    """Return the newest label-only baseline, and the distilled student from the same start."""
    numbers = [number for number, link in enumerate(links) if link.role == "baseline"]
    if not numbers:
        return None, None
    before = [link for link in links[: numbers[-1]] if link.role == "student"]
    return links[numbers[-1]], before[-1]


def _comparison(twin: Link | None, baseline: Link | None) -> Comparison | None:
    """Compare the student with its label-only baseline, trained from the same start."""
    if baseline is None or twin is None:
        return None
    pairs = zip(twin.accuracy.values, baseline.accuracy.values, strict=True)
    return Comparison(
        student=twin.accuracy,
        baseline=baseline.accuracy,
        difference=summarize([ours - theirs for ours, theirs in pairs]),
    )


def _budget(budget: Budget, chain: tuple[Link, ...]) -> Iterator[BudgetCheck]:
    """Yield each budget limit compared with the measured value.

    Costs are those of the shipped file, the first seed's; accuracy is the mean over seeds.
    """
    shipped = chain[-1]
    cost = shipped.measured[0].cost
    latency = next(one for one in cost.latency if one.threads == 1)
    teacher = next((link for link in chain if link.role == "teacher"), None)
    drop = None if teacher is None else teacher.accuracy.mean - shipped.accuracy.mean
    ceilings = {
        "size_kb": (cost.size_bytes / 1000, "kB"),
        "latency_ms": (latency.p50, "ms"),
        "accuracy_drop": (drop, ""),
        "parameters": (cost.parameters, ""),
        "flops": (cost.flops, ""),
        "memory_mb": (cost.peak_memory_bytes / 1e6, "MB"),
    }
    for name, (measured, unit) in ceilings.items():
        allowed = getattr(budget, name)
        if allowed is not None and measured is not None:
            yield BudgetCheck(
                name=name,
                allowed=allowed,
                measured=measured,
                unit=unit,
                met=measured <= allowed,
                conclusive=name != "latency_ms" or _conclusive(latency, allowed),
            )
    if budget.accuracy is not None:
        reached = shipped.accuracy.mean
        yield BudgetCheck(
            name="accuracy",
            allowed=budget.accuracy,
            measured=reached,
            unit="",
            met=reached >= budget.accuracy,
        )


def _conclusive(latency: Latency, allowed: float) -> bool:
    """Return whether the limit is outside of the range of an unsteady latency."""
    if latency.steady or latency.p10 is None:
        return True
    return not latency.p10 <= allowed <= latency.p90


def _curves(lineages: list[Candidate]) -> Iterator[Curve]:
    for lineage in lineages:
        for link in lineage.lineage:
            yield from link.record.curves


def _notes(recipe: Recipe, data: Data, lineages: list[Candidate]) -> Iterator[str]:
    if len(recipe.seeds) == 1:
        yield "One seed: no interval over seeds can be given. Set `seeds: [0, 1, 2]` for one."
    if recipe.profile != "default":
        yield f"The profile {recipe.profile!r} was applied; figures of the whole recipe may differ."
    yield from data.facts.notes
    yield from hold(recipe, data).notes
    for number, lineage in enumerate(lineages):
        notes = [note for link in lineage.lineage for note in chance_notes(link.record)]
        yield from (
            note if len(lineages) == 1 else f"Seed {recipe.seeds[number]}: {note}" for note in notes
        )
