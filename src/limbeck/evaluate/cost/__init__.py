"""Inference costs, training costs, and the break-even point between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field, FilePath

from limbeck.core.measurement import Result
from limbeck.evaluate import costs
from limbeck.evaluate.comparison import Estimate, MetricComparison, Unit, compare
from limbeck.evaluate.context import Workload
from limbeck.evaluate.cost import lifecycle
from limbeck.evaluate.measure import Artefact, measure

if TYPE_CHECKING:
    from pathlib import Path

    from limbeck.evaluate.context import EvaluationContext


ANY_TASK = True
NOISE = 0.05
"""Noise of a time or an energy, as a share of the teacher's."""


class Cost(Result):
    """The inference and training cost of both models.

    Attributes:
        comparisons: Size, latency, memory, energy and carbon of a prediction.
        training: Training energy in joules, by model.
        grams: Carbon dioxide of the same.
        break_even: Numbers of predictions after which the student's training energy is saved, and
            after which the teacher's is as well; None where a prediction saves nothing.
        inferences_per_mwh: By model.
        update_sizes: Bytes of an update, by its content.
        grid: The grid factor, and its source.
    """

    comparisons: tuple[MetricComparison, ...]
    student: costs.Cost | None = None
    teacher: costs.Cost | None = None
    training: dict[str, float] = Field(default_factory=dict)
    grams: dict[str, float] = Field(default_factory=dict)
    break_even: dict[str, float | None] = Field(default_factory=dict)
    inferences_per_mwh: dict[str, float] = Field(default_factory=dict)
    update_sizes: dict[str, int] = Field(default_factory=dict)
    grid: str = ""
    notes: tuple[str, ...] = ()


def evaluate(
    context: EvaluationContext, *, seconds: float = 1.0, previous: FilePath | None = None
) -> Cost:
    """Measure the cost of both files side by side, and compare it with that of the trainings.

    Args:
        context: The two models; they need files.
        seconds: Time for the latencies.
        previous: The student now on the devices, for the size of an update by difference.
    """
    files: dict[str, Path] = {
        name: side.file for name, side in context.models() if side.file is not None
    }
    if "student" not in files:
        note = "The student has no file: its cost cannot be measured."
        return Cost(comparisons=(), notes=(note,))
    found = measure(
        {name: Artefact(path, parameters=0, flops=0) for name, path in files.items()},
        context.one,
        seconds=seconds,
    )
    training: dict[str, float] = {
        name: lifecycle.training_joules(side.seconds)
        for name, side in context.models()
        if side.seconds is not None
    }
    energy = {name: one.energy for name, one in found.items() if one.energy is not None}
    joules = {name: one.joules for name, one in energy.items()}
    unknown = [name for name, _ in context.models() if name not in training]
    return Cost(
        comparisons=tuple(_comparisons(found, energy, training)),
        student=found["student"],
        teacher=found.get("teacher"),
        training=training,
        grams={name: lifecycle.grams(spent) for name, spent in training.items()},
        break_even=_break_even(training, joules),
        inferences_per_mwh={
            name: lifecycle.inferences_per_mwh(each) for name, each in joules.items()
        },
        update_sizes=lifecycle.update_sizes(
            files, samples=context.validation_size, classes=len(context.classes), previous=previous
        ),
        grid=next((one.source for one in energy.values()), ""),
        notes=tuple(f"The {name}'s training time is unknown." for name in unknown),
    )


def _break_even(
    training: Mapping[str, float], joules: Mapping[str, float]
) -> dict[str, float | None]:
    if "student" not in training or {"student", "teacher"} - joules.keys():
        return {}
    spent = {"the student's training": training["student"]}
    if "teacher" in training:
        spent["both trainings"] = sum(training.values())
    return {
        name: lifecycle.break_even(each, joules["teacher"], joules["student"])
        for name, each in spent.items()
    }


def _comparisons(
    found: Mapping[str, costs.Cost],
    energy: Mapping[str, costs.Energy],
    training: Mapping[str, float],
) -> list[MetricComparison]:
    latency = "Median of an inference at batch 1 on one thread, files interleaved."
    memory = "Peak of a separate process that loads the file and predicts."
    sizes = {name: one.size_bytes for name, one in found.items()}
    medians = {name: one.latency[0].p50 for name, one in found.items()}
    peaks = {name: one.peak_memory_bytes for name, one in found.items()}
    comparisons = [
        _compared("Size of the file", "bytes", sizes, "Bytes of the exported file.", noise=0.0),
        _compared("Latency", "milliseconds", medians, latency),
        _compared("Peak memory", "bytes", peaks, memory),
    ]
    if energy.keys() == found.keys():
        source = energy["student"].source
        joules = {name: one.joules for name, one in energy.items()}
        grams = {name: one.grams_co2 for name, one in energy.items()}
        comparisons += [
            _compared("Energy per inference", "joules", joules, source),
            _compared("Carbon per inference", "grams", grams, source),
        ]
    if "student" in training:
        comparisons.append(
            compare(
                "Energy of the training",
                unit="joules",
                direction="lower",
                student=Estimate(value=training["student"]),
                teacher=Estimate(value=training["teacher"]) if "teacher" in training else None,
                margin=0.0,
                method="Estimated: seconds of the stages on one core, at 10 W per core.",
            )
        )
    return comparisons


def _compared(
    name: str, unit: Unit, values: Mapping[str, float], method: str, *, noise: float = NOISE
) -> MetricComparison:
    """Compare one cost; without an interval, a difference within the noise is non-inferior."""
    student, teacher = values["student"], values.get("teacher")
    return compare(
        name,
        unit=unit,
        direction="lower",
        student=Estimate(value=student),
        teacher=None if teacher is None else Estimate(value=teacher),
        difference=None if teacher is None else Estimate(value=student - teacher),
        margin=0.0 if teacher is None else noise * teacher,
        method=method,
    )


def workload(context: EvaluationContext, *, seconds: float, **settings: object) -> Workload:
    """Compute the workload: latencies, then throughput, memory and energy in a process each."""
    return Workload(seconds=2 * seconds + 4)
