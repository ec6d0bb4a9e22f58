"""Inference costs, training costs, and the break-even point between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


NOISE = 0.05
"""Noise of a time or an energy, as a share of the teacher's."""


class Cost(Result):
    """The inference and training cost of both models.

    Attributes:
        comparisons: Size, latency, memory, energy and carbon of a prediction.
        student: Everything measured of the student.
        teacher: Everything measured of the teacher.
        training: Training energy in joules, by model.
        grams: Carbon dioxide of the same.
        break_even: Numbers of predictions after which the student's training energy is saved, and
            after which the teacher's is as well; None where a prediction saves nothing.
        inferences_per_mwh: By model.
        update_sizes: Bytes of an update, by what is sent.
        grid: The grid factor, and its source.
        notes: Reasons for what was not measured.
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
        return Cost(
            comparisons=(), notes=("The student has no file: its cost cannot be measured.",)
        )
    example = next(iter(context.batches()))
    found = measure(
        {name: Artefact(path, parameters=0, flops=0) for name, path in files.items()},
        {name: value[:1] for name, value in example.items()},
        seconds=seconds,
    )
    training: dict[str, float] = {
        name: lifecycle.training_joules(side.seconds)
        for name, side in context.models()
        if side.seconds is not None
    }
    energy = {name: one.energy.joules for name, one in found.items() if one.energy is not None}
    unknown = [name for name, _ in context.models() if name not in training]
    return Cost(
        comparisons=tuple(_findings(found, training)),
        student=found["student"],
        teacher=found.get("teacher"),
        training=training,
        grams={name: lifecycle.grams(joules) for name, joules in training.items()},
        break_even=_break_even(training, energy),
        inferences_per_mwh={
            name: lifecycle.inferences_per_mwh(joules) for name, joules in energy.items()
        },
        update_sizes=lifecycle.update_sizes(
            files,
            samples=sum(len(batch["labels"]) for batch in context.validation()),
            classes=len(context.classes),
            previous=previous,
        ),
        grid=next((one.energy.source for one in found.values() if one.energy), ""),
        notes=tuple(f"What the {name}'s training took is not known." for name in unknown),
    )


def _break_even(
    training: Mapping[str, float], energy: Mapping[str, float]
) -> dict[str, float | None]:
    if "student" not in training or {"student", "teacher"} - energy.keys():
        return {}
    spent = {"the student's training": training["student"]}
    if "teacher" in training:
        spent["both trainings"] = sum(training.values())
    return {
        name: lifecycle.break_even(joules, energy["teacher"], energy["student"])
        for name, joules in spent.items()
    }


def _findings(
    found: Mapping[str, costs.Cost], training: Mapping[str, float]
) -> list[MetricComparison]:
    shown = [
        _compared("Size of the file", "bytes", found, lambda one: one.size_bytes, noise=0.0,
                  how="Bytes of the file that ships."),
        _compared("Latency", "milliseconds", found, lambda one: one.latency[0].p50,
                  how="Median of an inference at batch 1 on one thread, the files in turn."),
        _compared("Peak memory", "bytes", found, lambda one: one.peak_memory_bytes,
                  how="Peak of a process of its own that loads the file and answers."),
    ]  # fmt: skip
    if all(one.energy is not None for one in found.values()):
        source = next(one.energy.source for one in found.values() if one.energy)
        shown += [
            _compared("Energy per inference", "joules", found, _joules, how=source),
            _compared("Carbon per inference", "grams", found, _grams, how=source),
        ]
    if "student" in training:
        own = Estimate(value=training["student"])
        shown.append(
            compare(
                "Energy of the training",
                unit="joules",
                direction="lower",
                student=own,
                teacher=Estimate(value=training["teacher"]) if "teacher" in training else None,
                margin=0.0,
                method="Estimated: seconds of the stages on one core, at 10 W a core.",
            )
        )
    return shown


def _joules(one: costs.Cost) -> float:
    return one.energy.joules if one.energy else 0.0


def _grams(one: costs.Cost) -> float:
    return one.energy.grams_co2 if one.energy else 0.0


def _compared(
    name: str,
    unit: Unit,
    found: Mapping[str, costs.Cost],
    taken: Callable[[costs.Cost], float],
    *,
    how: str,
    noise: float = NOISE,
) -> MetricComparison:
    """Compare one cost; without an interval, a difference within the noise counts as kept."""
    own, other = taken(found["student"]), found.get("teacher")
    if other is None:
        return compare(
            name, unit=unit, direction="lower", student=Estimate(value=own), margin=0, method=how
        )
    beside = taken(other)
    return compare(
        name,
        unit=unit,
        direction="lower",
        student=Estimate(value=own),
        teacher=Estimate(value=beside),
        difference=Estimate(value=own - beside),
        margin=noise * beside,
        method=how,
    )


def workload(context: EvaluationContext, *, seconds: float, **settings: object) -> Workload:
    """Compute the workload: latencies, then throughput, memory and energy in a process each."""
    return Workload(seconds=2 * seconds + 4)
