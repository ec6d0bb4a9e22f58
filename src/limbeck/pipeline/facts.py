"""What the passport of a student states, taken from what the run found."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.passport import DatasetFacts, MetricFacts, ModelFacts, PassportFacts
from limbeck.pipeline.candidate import Candidate
from limbeck.report.result import Link, Measured, RunResult

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.data.load import Data
    from limbeck.tasks import Task


def passport_facts(
    result: RunResult, *, folder: Path, lineage: Candidate, data: Data, task: Task
) -> PassportFacts:
    """Gather what the passport of a student states.

    Args:
        result: What the run found.
        folder: The student folder, whose files are hashed.
        lineage: How the first seed's student came to be, since that is the one that ships.
        data: What it was trained on.
        task: What goes in and comes out.
    """
    dataset = _dataset(result)
    spec = result.recipe["student"] or result.recipe["teacher"]
    example = data.validation.__getitems__([0])
    return PassportFacts(
        name=f"{result.name}-student",
        task=result.task,
        folder=folder,
        model_file="model.onnx",
        timestamp=datetime.fromisoformat(result.environment.started),
        architecture=_architecture(spec),
        inputs=tuple(f"{name} {_form(example[name])}" for name in task.inputs),
        outputs=(f"logits float32 [n, {len(task.classes)}]",),
        teachers=tuple(_teachers(result, lineage, dataset)),
        data=(dataset,),
        recipe=result.recipe,
        metrics=tuple(_metrics(result.shipped, result.teacher)),
        versions=result.environment.versions,
        seeds=result.seeds,
        git_commit=result.environment.git_commit,
        hardware=result.environment.hardware.processor,
        limits=(*result.notes, *result.shipped.notes),
        tradeoffs=tuple(
            f"{check.name}: {check.measured:.6g} {check.unit} of {check.allowed:.6g} allowed, "
            f"{'met' if check.met else 'missed'}"
            for check in result.budget
        ),
    )


def _form(tensor: Tensor) -> str:
    shape = ", ".join(["n", *(str(size) for size in tensor.shape[1:])])
    return f"{str(tensor.dtype).removeprefix('torch.')} [{shape}]"


def _architecture(spec: dict[str, object]) -> str:
    settings = ", ".join(
        f"{name}={value}" for name, value in spec.items() if name not in {"source", "weights"}
    )
    return f"{spec['source']}: {settings}"


def _dataset(result: RunResult) -> DatasetFacts:
    facts = result.data
    return DatasetFacts(
        name=facts.name or facts.source,
        source=facts.source,
        fingerprint=facts.fingerprint,
        licence=facts.licence,
        classes=facts.classes,
        counts={"train": facts.train, "validation": facts.validation, "test": facts.test},
    )


def _teachers(result: RunResult, lineage: Candidate, dataset: DatasetFacts) -> list[ModelFacts]:
    """Describe each member that taught, by the hash of its own weights."""
    found = lineage.newest("teacher")
    link = result.teacher
    if found is None or link is None:
        return []
    folder, artefact = found
    record = next(one.record for one in lineage.lineage if one.folder == folder)
    spec = result.recipe["teacher"]
    specs = spec if isinstance(spec, list) else [spec]
    return [
        ModelFacts(
            name=str(one.get("name") or one["source"]),
            source="taught in this run" if record.stage == "teach" else str(one.get("weights")),
            digest=record.files[name],
            architecture=_architecture(one),
            metrics=(_accuracy(link.measured[0]),) if len(specs) == 1 else (),
            data=(dataset,) if record.stage == "teach" else (),
        )
        for one, name in zip(specs, artefact.weights, strict=True)
    ]


def _accuracy(one: Measured) -> MetricFacts:
    interval = one.accuracy.interval
    return MetricFacts(
        "accuracy", one.accuracy.value, low=interval.low, high=interval.high, slice="test"
    )


def _metrics(shipped: Link, teacher: Link | None) -> list[MetricFacts]:
    """Take the shipped file's own figures: those of the first seed, since that is the file."""
    one = shipped.measured[0]
    metrics = [
        _accuracy(one),
        MetricFacts("expected_calibration_error", one.calibration.ece, slice="test"),
        MetricFacts("size", one.cost.size_bytes, unit="bytes"),
        MetricFacts("parameters", one.cost.parameters),
        MetricFacts("flops", one.cost.flops),
        MetricFacts("peak_memory", one.cost.peak_memory_bytes, unit="bytes"),
        MetricFacts("throughput", one.cost.throughput, unit="samples/s"),
    ]
    metrics += [
        MetricFacts(f"latency_{name}_{latency.threads}_threads", getattr(latency, name), unit="ms")
        for latency in one.cost.latency
        for name in ("p50", "p90", "p99")
    ]
    if one.fidelity is not None:
        interval = one.fidelity.interval
        metrics.append(
            MetricFacts(
                "agreement_with_teacher",
                one.fidelity.agreement,
                low=interval.low,
                high=interval.high,
                slice="test",
            )
        )
    if teacher is not None and teacher.measured[0].accuracy.value > 0:
        retained = one.accuracy.value / teacher.measured[0].accuracy.value
        metrics.append(MetricFacts("retained_share", retained, slice="test"))
    if one.cost.energy is not None:
        metrics.append(MetricFacts("energy_estimated", one.cost.energy.joules, unit="J"))
    return metrics
