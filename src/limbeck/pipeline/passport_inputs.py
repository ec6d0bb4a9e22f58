"""Passport (ML-BOM) inputs of a student, collected from the run's results."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.display import format as fmt
from limbeck.evaluate.cost.lifecycle import grams, training_joules
from limbeck.evaluate.measure import GRAMS_A_KWH, WATTS_A_CORE
from limbeck.passport import (
    CarbonFacts,
    DatasetFacts,
    DifferenceFacts,
    MetricFacts,
    ModelFacts,
    PassportFacts,
)
from limbeck.pipeline.candidate import Candidate
from limbeck.pipeline.provenance import add_origin, dataset_facts, load_passport, name_of, origin
from limbeck.pipeline.recipe import Recipe
from limbeck.report import verdict
from limbeck.report.result import Link, Measured, RunResult

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.core.measurement import Interval
    from limbeck.data.load import Data
    from limbeck.evaluate.evaluation import Evaluation
    from limbeck.pipeline.context import Context
    from limbeck.tasks import Task


def passport_inputs(
    result: RunResult, *, folder: Path, lineage: Candidate, data: Data, task: Task
) -> PassportFacts:
    """Collect the passport facts of a student."""
    recipe = Recipe.model_validate(result.recipe)
    dataset = dataset_facts(recipe, result.data)
    environment, shipped = result.environment, result.shipped
    example = data.validation.__getitems__([0])
    scores = (_score(result.teacher.measured[0]),) if result.teacher else ()
    facts = PassportFacts(
        name=student_name(result.name),
        task=result.task,
        folder=folder,
        model_file="model.onnx",
        timestamp=datetime.fromisoformat(environment.started),
        architecture=_architecture(result.recipe["student"] or result.recipe["teacher"]),
        inputs=tuple(f"{name} {_shape(example[name])}" for name in task.inputs),
        outputs=tuple(f"{name} float32 [n, {len(data.outputs)}]" for name in task.kinds),
        teachers=tuple(_teachers(recipe, lineage, dataset, scores)),
        data=(dataset,),
        recipe=result.recipe,
        metrics=tuple(_metrics(shipped.measured[0], result.teacher)),
        versions=environment.versions,
        seeds=result.seeds,
        git_commit=environment.git_commit,
        hardware=environment.hardware.processor,
        limits=(*result.notes, *shipped.notes),
        tradeoffs=tuple(
            f"{check.name}: {check.measured:.6g} {check.unit} of {check.allowed:.6g} allowed, "
            f"{'met' if check.met else 'missed'}"
            for check in result.budget
        ),
        robustness=tuple(_robustness(result.evaluation)),
        carbon=_carbon(result),
        environment={
            "system": environment.hardware.system,
            "processor flags": " ".join(environment.hardware.flags),
        },
        negative_results=tuple(_negative_results(result)),
    )
    return add_origin(facts, recipe.provenance.student)


def _shape(tensor: Tensor) -> str:
    shape = ", ".join(["n", *(str(size) for size in tensor.shape[1:])])
    return f"{str(tensor.dtype).removeprefix('torch.')} [{shape}]"


def _architecture(spec: dict[str, object]) -> str:
    settings = ", ".join(
        f"{name}={value}" for name, value in spec.items() if name not in {"source", "checkpoint"}
    )
    return f"{spec['source']}: {settings}"


def stamp_facts(candidate: Candidate, context: Context) -> PassportFacts:
    """Collect the facts embedded in the shipped files, known before these are measured."""
    recipe = context.recipe
    dataset = dataset_facts(recipe, context.data.facts)
    facts = PassportFacts(
        name=student_name(recipe.name),
        task=recipe.task,
        folder=context.folder,
        model_file="model.onnx",
        timestamp=datetime.now(UTC),
        teachers=tuple(_teachers(recipe, candidate, dataset)),
    )
    return add_origin(facts, recipe.provenance.student)


def student_name(recipe: str) -> str:
    """Return the name of a student, from its recipe."""
    return f"{recipe}-student"


def _teachers(
    recipe: Recipe, lineage: Candidate, dataset: DatasetFacts, metrics: tuple[MetricFacts, ...] = ()
) -> list[ModelFacts]:
    """Return the facts of each teacher that was used, with the hash of its weights."""
    found = lineage.newest("teacher")
    if found is None:
        return []
    folder, artefact = found
    record = next(one.record for one in lineage.lineage if one.folder == folder)
    trained = record.stage == "train_teacher"
    return [
        # A student used as a teacher keeps its own passport's facts: generations are linked by
        # hash.
        load_passport(spec)
        or add_origin(
            ModelFacts(
                name=name_of(spec),
                source="trained in this run" if trained else str(spec.checkpoint),
                digest=record.files[name],
                architecture=_architecture(spec.model_dump()),
                metrics=metrics if len(recipe.teachers) == 1 else (),
                data=(dataset,) if trained else (),
            ),
            origin(recipe, place),
        )
        for place, (spec, name) in enumerate(zip(recipe.teachers, artefact.weights, strict=True))
    ]


def _robustness(evaluation: Evaluation | None) -> Iterator[DifferenceFacts]:
    """Yield the differences found by the robustness evaluation, with their margins."""
    from limbeck.evaluate.robustness import Robustness

    robustness = evaluation.result_of(Robustness) if evaluation else None
    for comparison in robustness.comparisons if robustness else ():
        difference = comparison.difference
        if difference is not None:
            interval = difference.interval
            yield DifferenceFacts(
                comparison.name,
                difference.value,
                low=interval.low if interval else None,
                high=interval.high if interval else None,
                margin=comparison.margin,
                better=comparison.direction,
            )


def _carbon(result: RunResult) -> CarbonFacts:
    seconds = sum(sum(link.seconds.values) for link in result.chain)
    return CarbonFacts(
        grams=grams(training_joules(seconds)),
        grid_factor=GRAMS_A_KWH,
        grid="world average of 2019 (IEA)",
        scope=f"all stages, {len(result.seeds)} seeds; estimated: one core at {WATTS_A_CORE:g} W",
    )


def _negative_results(result: RunResult) -> Iterator[str]:
    gain = result.comparison.difference if result.comparison else None
    if gain is not None and gain.mean <= 0:
        written = fmt.gain(gain.mean, result.metric)
        yield f"The teacher added nothing: {written} over labels alone."
    for check in result.budget:
        if not check.met:
            name = verdict.budget_name(check)
            yield f"The budget's {name} was missed: {verdict.amount(check.measured, check)}."
    for comparison in result.evaluation.comparisons if result.evaluation else ():
        if comparison.verdict == "worse":
            yield comparison.summary


def _score(one: Measured) -> MetricFacts:
    return _of_test(one.score.metric.name, one.score.value, one.score.interval)


def _of_test(name: str, value: float, interval: Interval | None = None) -> MetricFacts:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return MetricFacts(name, value, low=low, high=high, slice="test")


def _metrics(one: Measured, teacher: Link | None) -> Iterator[MetricFacts]:
    """Yield the metrics of the shipped file, the first seed's."""
    for score in one.scores:
        yield _of_test(score.metric.name, score.value, score.interval)
    if one.calibration is not None:
        yield _of_test("expected_calibration_error", one.calibration.ece)
    yield MetricFacts("size", one.cost.size_bytes, unit="bytes")
    yield MetricFacts("parameters", one.cost.parameters)
    yield MetricFacts("flops", one.cost.flops)
    yield MetricFacts("peak_memory", one.cost.peak_memory_bytes, unit="bytes")
    yield MetricFacts("throughput", one.cost.throughput, unit="samples/s")
    for latency in one.cost.latency:
        for name in ("p50", "p90", "p99"):
            label = f"latency_{name}_{latency.threads}_threads"
            yield MetricFacts(label, getattr(latency, name), unit="ms")
    if one.fidelity is not None:
        yield _of_test("agreement_with_teacher", one.fidelity.agreement, one.fidelity.interval)
    reference = None if teacher is None else teacher.measured[0].score
    if reference is not None and reference.metric.unit == "share" and reference.value > 0:
        yield _of_test("retained_share", one.score.value / reference.value)
    if one.cost.energy is not None:
        yield MetricFacts("energy_estimated", one.cost.energy.joules, unit="J")
