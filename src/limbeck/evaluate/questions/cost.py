"""Inference cost, training cost, and the break-even point between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pydantic import Field, FilePath

from limbeck.evaluate import cost, lifecycle
from limbeck.evaluate.finding import Estimate, Finding, Unit, find
from limbeck.evaluate.interval import Result
from limbeck.evaluate.measure import Artefact, measure
from limbeck.evaluate.workload import Workload

if TYPE_CHECKING:
    from pathlib import Path

    from limbeck.evaluate.sitting import Sitting

NOISE = 0.05
"""Noise of a time or an energy, as a share of the teacher's."""


class Cost(Result):
    """The inference and training cost of both models.

    Attributes:
        findings: Size, latency, memory, energy and carbon of a prediction.
        student: Everything measured of the student.
        teacher: Everything measured of the teacher.
        training: Training energy in joules, by model.
        grams: Carbon dioxide of the same.
        break_even: Numbers of predictions after which the student's training energy is saved, and
            after which the teacher's is as well; None where a prediction saves nothing.
        answers_a_milliwatt_hour: By model.
        payloads: Bytes of an update, by what is sent.
        grid: The grid factor, and its source.
        notes: Reasons for what was not measured.
    """

    findings: tuple[Finding, ...]
    student: cost.Cost | None = None
    teacher: cost.Cost | None = None
    training: dict[str, float] = Field(default_factory=dict)
    grams: dict[str, float] = Field(default_factory=dict)
    break_even: dict[str, float | None] = Field(default_factory=dict)
    answers_a_milliwatt_hour: dict[str, float] = Field(default_factory=dict)
    payloads: dict[str, int] = Field(default_factory=dict)
    grid: str = ""
    notes: tuple[str, ...] = ()


def ask(sitting: Sitting, *, seconds: float = 1.0, previous: FilePath | None = None) -> Cost:
    """Measure the cost of both files side by side, and compare it with that of the trainings.

    Args:
        sitting: The two models; they need files.
        seconds: Time for the latencies.
        previous: The student now on the devices, for the size of an update by difference.
    """
    files: dict[str, Path] = {
        name: side.file for name, side in sitting.sides() if side.file is not None
    }
    if "student" not in files:
        return Cost(findings=(), notes=("The student has no file: its cost cannot be measured.",))
    example = next(iter(sitting.batches()))
    found = measure(
        {name: Artefact(path, parameters=0, flops=0) for name, path in files.items()},
        {name: value[:1] for name, value in example.items()},
        seconds=seconds,
    )
    training: dict[str, float] = {
        name: lifecycle.training_joules(side.seconds)
        for name, side in sitting.sides()
        if side.seconds is not None
    }
    energy = {name: one.energy.joules for name, one in found.items() if one.energy is not None}
    unknown = [name for name, _ in sitting.sides() if name not in training]
    return Cost(
        findings=tuple(_findings(found, training)),
        student=found["student"],
        teacher=found.get("teacher"),
        training=training,
        grams={name: lifecycle.grams(joules) for name, joules in training.items()},
        break_even=_break_even(training, energy),
        answers_a_milliwatt_hour={
            name: lifecycle.answers_a_milliwatt_hour(joules) for name, joules in energy.items()
        },
        payloads=lifecycle.payloads(
            files,
            samples=sum(len(batch["label"]) for batch in sitting.validation()),
            classes=len(sitting.classes),
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


def _findings(found: Mapping[str, cost.Cost], training: Mapping[str, float]) -> list[Finding]:
    shown = [
        _compared("Size of the file", "bytes", found, lambda one: one.size_bytes, noise=0.0,
                  how="Bytes of the file that ships."),
        _compared("Latency", "milliseconds", found, lambda one: one.latency[0].p50,
                  how="Median of an answer at batch 1 on one thread, the files in turn."),
        _compared("Peak memory", "bytes", found, lambda one: one.peak_memory_bytes,
                  how="Peak of a process of its own that loads the file and answers."),
    ]  # fmt: skip
    if all(one.energy is not None for one in found.values()):
        source = next(one.energy.source for one in found.values() if one.energy)
        shown += [
            _compared("Energy of an answer", "joules", found, _joules, how=source),
            _compared("Carbon of an answer", "grams", found, _grams, how=source),
        ]
    if "student" in training:
        own = Estimate(value=training["student"])
        shown.append(
            find(
                "Energy of the training",
                unit="joules",
                better="lower",
                student=own,
                teacher=Estimate(value=training["teacher"]) if "teacher" in training else None,
                margin=0.0,
                how="Estimated: seconds of the stages on one core, at 10 W a core.",
            )
        )
    return shown


def _joules(one: cost.Cost) -> float:
    return one.energy.joules if one.energy else 0.0


def _grams(one: cost.Cost) -> float:
    return one.energy.grams_co2 if one.energy else 0.0


def _compared(
    name: str,
    unit: Unit,
    found: Mapping[str, cost.Cost],
    taken: Callable[[cost.Cost], float],
    *,
    how: str,
    noise: float = NOISE,
) -> Finding:
    """Compare one cost; without an interval, a difference within the noise counts as kept."""
    own, other = taken(found["student"]), found.get("teacher")
    if other is None:
        return find(name, unit=unit, better="lower", student=Estimate(value=own), margin=0, how=how)
    beside = taken(other)
    return find(
        name,
        unit=unit,
        better="lower",
        student=Estimate(value=own),
        teacher=Estimate(value=beside),
        difference=Estimate(value=own - beside),
        margin=noise * beside,
        how=how,
    )


def workload(sitting: Sitting, *, seconds: float, **settings: object) -> Workload:
    """Compute the workload: latencies, then throughput, memory and energy in a process each."""
    return Workload(seconds=2 * seconds + 4)
