"""The result of a run: metrics of all seeds, budget checks, notes and versions."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

from limbeck.core.measurement import Metric
from limbeck.evaluate.costs import Latency, latency_ratio
from limbeck.evaluate.hardware import Hardware, describe
from limbeck.evaluate.intervals import summarize
from limbeck.pipeline.artefact_results import SIMILARITY_TEMPERATURE, ArtefactResults
from limbeck.pipeline.candidate import Candidate, Record
from limbeck.pipeline.statements import check_models
from limbeck.pipeline.teacher_checks import chance_notes
from limbeck.report.result import BudgetCheck, Comparison, DataFacts, Environment, Link, RunResult

if TYPE_CHECKING:
    from limbeck.data.load import Data
    from limbeck.pipeline.recipe import Budget, Recipe


PACKAGES = (
    *("limbeck", "torch", "numpy", "safetensors", "datasets", "accelerate"),
    *("onnx", "onnxscript", "onnxruntime", "scikit-learn", "torchvision", "timm"),
    *("transformers", "tokenizers", "codecarbon"),
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the relevant installed packages."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the current working tree; None outside one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


SLACK = 1.05
"""Allowed random variation of a latency."""

INTEGER = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Instruction sets with int8 products."""


def latency_notes(chain: Iterable[Link], hardware: Hardware) -> Iterator[str]:
    """Yield a note for each quantisation that increased the latency, with likely causes."""
    reason = "this processor has no int8 dot products (VNNI), so int8 is slower than float32 here"
    if INTEGER & set(hardware.flags):
        reason = (
            "quantising activations takes longer than int8 products save, or operators stayed "
            "in float"
        )
    students = [link for link in chain if link.role == "student"]
    for before, after in pairwise(students):
        was, now = _latency(before), _latency(after)
        ratio = latency_ratio(now, was)
        slower = ratio is None or ratio[0] > 1  # in nearly every block of the measurement
        if after.stage == "quantize" and now.p50 > SLACK * was.p50 and slower:
            yield (
                f"One prediction takes {now.p50:.3g} ms after quantisation, {was.p50:.3g} ms "
                f"before: {reason}."
            )


def unsteady(chain: Sequence[Link]) -> Iterator[str]:
    """Yield a warning where the 90th percentile of a latency is far above the median."""
    timed = [(link.label, _latency(link)) for link in chain]
    varying = [(label, one) for label, one in timed if not one.steady]
    if not varying:
        return
    label, worst = max(varying, key=lambda pair: pair[1].p90 / pair[1].p50)
    load = "" if worst.load is None else f"; the load average was {worst.load:.1f} for each core"
    yield (
        f"Latencies are inconclusive: for {label}, the 90th percentile is "
        f"{worst.p90 / worst.p50:.1f} times the median{load}. Measure again on a quiet machine."
    )


def _latency(link: Link) -> Latency:
    """Return the latency at batch 1 on one thread, of the first seed's file."""
    return next(one for one in link.measured[0].cost.latency if one.threads == 1)


def assemble(
    *,
    recipe: Recipe,
    data: Data,
    lineages: list[Candidate],
    seeds: list[ArtefactResults],
    started: datetime,
    seconds: float,
    command: str,
) -> RunResult:
    """Build the run result from the seeds' metrics: means, intervals and budget checks."""
    links = list(_links(lineages, seeds))
    chain = tuple(link for link in links if link.role != "baseline")
    first, hardware = seeds[0], describe()
    baseline, comparison = _comparison(links)
    return RunResult(
        name=recipe.name,
        task=recipe.task,
        recipe=recipe.model_dump(mode="json"),
        seeds=tuple(recipe.seeds),
        data=DataFacts.model_validate(data.facts, from_attributes=True),
        chain=chain,
        baseline=baseline,
        comparison=comparison,
        budget=tuple(_budget(recipe.budget, chain)),
        curves=tuple(
            curve
            for link in {link.folder: link for one in lineages for link in one.lineage}.values()
            for curve in link.record.curves
        ),
        class_similarity=first.class_similarity,
        similarity_temperature=SIMILARITY_TEMPERATURE,
        disagreements=first.disagreements,
        disagreement_count=first.disagreement_count,
        details=first.details,
        environment=Environment(
            hardware=hardware,
            versions=versions(),
            git_commit=git_commit(),
            command=command,
            started=started.isoformat(timespec="seconds"),
            seconds=seconds,
        ),
        notes=(*_notes(recipe, data, lineages), *latency_notes(chain, hardware), *unsteady(chain)),
    )


def _links(lineages: list[Candidate], seeds: list[ArtefactResults]) -> Iterator[Link]:
    for number, link in enumerate(lineages[0].lineage):
        for artefact in link.record.artefacts:
            measured = tuple(results.find(number, artefact.role) for results in seeds)
            yield Link(
                stage=link.record.stage,
                label=artefact.label,
                role=artefact.role,
                what="labels alone" if artefact.role == "baseline" else link.record.what,
                seconds=summarize([record.seconds for record in _records(lineages, number)]),
                measured=measured,
                score=summarize(
                    [one.score.value for one in measured], bounds=measured[0].score.metric.bounds
                ),
                notes=link.record.notes,
            )


def _records(lineages: list[Candidate], number: int) -> list[Record]:
    """Return the records of a stage: one per seed, or a single one that all seeds share."""
    links = [lineage.lineage[number] for lineage in lineages]
    return list({link.folder: link.record for link in links}.values())


def _comparison(links: list[Link]) -> tuple[Link | None, Comparison | None]:
    """Compare the newest label-only baseline with the distilled student from the same start."""
    numbers = [number for number, link in enumerate(links) if link.role == "baseline"]
    if not numbers:
        return None, None
    baseline = links[numbers[-1]]
    student = [link for link in links[: numbers[-1]] if link.role == "student"][-1].score
    pairs = zip(student.values, baseline.score.values, strict=True)
    metric = baseline.measured[0].score.metric
    difference = summarize([metric.gain(distilled, over=alone) for distilled, alone in pairs])
    return baseline, Comparison(student=student, baseline=baseline.score, difference=difference)


def _budget(budget: Budget, chain: tuple[Link, ...]) -> Iterator[BudgetCheck]:
    """Yield each budget limit compared with the measured value.

    Costs are those of the shipped file, the first seed's; scores are means over seeds.
    """
    shipped = chain[-1]
    cost, latency = shipped.measured[0].cost, _latency(shipped)
    # An unsteady latency decides nothing about a limit within its range.
    low = None if latency.steady else latency.p10
    values = {
        "size_kb": (cost.size_bytes / 1000, "kB"),
        "latency_ms": (latency.p50, "ms"),
        "parameters": (cost.parameters, ""),
        "flops": (cost.flops, ""),
        "memory_mb": (cost.peak_memory_bytes / 1e6, "MB"),
    }
    for name, (measured, unit) in values.items():
        allowed = getattr(budget, name)
        if allowed is not None:
            yield BudgetCheck(
                name=name,
                allowed=allowed,
                measured=measured,
                unit=unit,
                met=measured <= allowed,
                conclusive=name != "latency_ms" or low is None or not low <= allowed <= latency.p90,
            )
    reached = _mean_scores(shipped)
    teacher = next((link for link in chain if link.role == "teacher"), None)
    yield from score_checks(budget, reached, None if teacher is None else _mean_scores(teacher))


Scores = Mapping[str, tuple[Metric, float]]


def _mean_scores(link: Link) -> Scores:
    """Average each score of an artefact over seeds."""
    columns = zip(*(one.scores for one in link.measured), strict=True)
    return {
        column[0].metric.name: (column[0].metric, fmean(one.value for one in column))
        for column in columns
    }


def score_checks(budget: Budget, reached: Scores, teacher: Scores | None) -> Iterator[BudgetCheck]:
    """Yield each limit of a score, and of its drop below the teacher's, with the outcome.

    Example:
        >>> from limbeck.pipeline.recipe import Budget
        >>> metric = Metric(name="accuracy", title="Accuracy")
        >>> budget = Budget(drop={"accuracy": 0.02})
        >>> [line] = score_checks(budget, {"accuracy": (metric, 0.9)}, {"accuracy": (metric, 0.95)})
        >>> line.met, round(line.measured, 3)
        (False, 0.05)
    """
    unit = {
        name: "" if metric.unit == "share" else metric.unit for name, (metric, _) in reached.items()
    }
    for name, allowed in budget.score.items():
        metric, value = reached[name]
        met = metric.gain(value, over=allowed) >= 0
        yield BudgetCheck(
            name="score",
            allowed=allowed,
            measured=value,
            unit=unit[name],
            met=met,
            metric=metric,
            at_least=metric.higher_is_better,
        )
    if teacher is None:
        return
    for name, allowed in budget.drop.items():
        metric, value = reached[name]
        drop = metric.gain(teacher[name][1], over=value)
        yield BudgetCheck(
            name="drop",
            allowed=allowed,
            measured=drop,
            unit=unit[name],
            met=drop <= allowed,
            metric=metric,
        )


def input_notes(recipe: Recipe, data: Data) -> tuple[str, ...]:
    """Return the notes on the data and on loaded models, which are known before any training."""
    return (*data.facts.notes, *check_models(recipe, data).notes)


def _notes(recipe: Recipe, data: Data, lineages: list[Candidate]) -> Iterator[str]:
    if len(recipe.seeds) == 1:
        yield "One seed: no interval over seeds can be given. Set `seeds: [0, 1, 2]` for one."
    if recipe.profile != "default":
        yield f"The profile {recipe.profile!r} was applied; figures of the whole recipe may differ."
    yield from input_notes(recipe, data)
    for number, link in enumerate(lineages[0].lineage):
        if len(lineages) > 1 and len(_records(lineages, number)) == 1:
            yield (
                f"One teacher, of seed {link.record.seed}, for all {len(lineages)} seeds: "
                "intervals are over students, and do not include the variation between teachers."
            )
    for seed, lineage in zip(recipe.seeds, lineages, strict=True):
        for note in (note for link in lineage.lineage for note in chance_notes(link.record)):
            yield note if len(lineages) == 1 else f"Seed {seed}: {note}"
