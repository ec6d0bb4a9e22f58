"""The figures behind the verdict, the same for page, card and terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass

from limbeck.evaluate.cost import Latency, latency_ratio
from limbeck.evaluate.interval import Interval, Summary
from limbeck.report.result import Link, Measured, RunResult


def first(link: Link | None) -> Measured | None:
    """Return the measurements of a stage's first seed: of the last stage, the exported file's."""
    return link.measured[0] if link is not None and link.measured else None


def one_thread(measured: Measured | None) -> Latency | None:
    """Return the latency at one thread, or `None` if it was not measured."""
    timed = measured.cost.latency if measured else ()
    return next((latency for latency in timed if latency.threads == 1), None)


def all_threads(measured: Measured | None) -> Latency | None:
    """Return the latency at the most threads above one, or `None` if it was not measured."""
    timed = [
        latency for latency in (measured.cost.latency if measured else ()) if latency.threads > 1
    ]
    return max(timed, key=lambda latency: latency.threads, default=None)


def p50(measured: Measured | None) -> float | None:
    """Return the median latency at one thread in milliseconds."""
    latency = one_thread(measured)
    return latency.p50 if latency else None


def quotient(above: float | None, below: float | None) -> float | None:
    """Compute a quotient; `None` where a part is missing or the divisor is zero.

    Example:
        >>> quotient(6, 3), quotient(6, None), quotient(6, 0)
        (2.0, None, None)
    """
    if above is None or not below:
        return None
    value = above / below
    return value if math.isfinite(value) else None


def majority_share(measured: Measured | None) -> float | None:
    """Compute the majority-class baseline: the share of the most frequent class."""
    rows = [sum(row) for row in measured.confusion] if measured else []
    return max(rows) / sum(rows) if sum(rows) else None


def _at_chance(measured: Measured | None, mean: float, majority: float | None) -> bool:
    """Return whether the model is not shown to beat the majority-class baseline."""
    if measured is None or majority is None:
        return False
    return mean <= majority or measured.accuracy.interval.low <= majority


def _above(mean: float, teacher: Summary | None, majority: float | None) -> float | None:
    """Compute the student / teacher ratio of the accuracies above the majority-class baseline."""
    if teacher is None or majority is None or teacher.mean <= majority:
        return None
    return max(0.0, mean - majority) / (teacher.mean - majority)


def _range(above: Latency | None, below: Latency | None) -> tuple[float, float] | None:
    return latency_ratio(above, below) if above and below else None


@dataclass(frozen=True)
class Figures:
    """The figures of the verdict; `None` where the run did not measure them.

    `compression`, `fewer_parameters` and `speedup` are teacher / student: above 1, the student is
    better; `speedup_range` is the range of the ratio over the blocks of the measurement. `retained`
    is the student's mean accuracy over seeds divided by the teacher's; `majority` is the share of
    the most frequent class among the test samples, the accuracy of a constant prediction;
    `retained_above_majority` is the ratio of the accuracies in excess of it.
    """

    size: int | None
    parameters: int | None
    latency: float | None
    accuracy: Summary
    shipped_interval: Interval | None
    shipped_accuracy: float | None
    test_samples: int | None
    teacher_size: int | None
    teacher_parameters: int | None
    teacher_latency: float | None
    teacher_accuracy: Summary | None
    compression: float | None
    fewer_parameters: float | None
    speedup: float | None
    speedup_range: tuple[float, float] | None
    latency_spread: Latency | None
    retained: float | None
    majority: float | None
    retained_above_majority: float | None
    student_at_chance: bool
    teacher_at_chance: bool
    missed: tuple[str, ...]


def figures(result: RunResult) -> Figures:
    """Compute the verdict's figures from a result."""
    shipped, taught = first(result.shipped), first(result.teacher)
    size, teacher_size = (m.cost.size_bytes if m else None for m in (shipped, taught))
    parameters, teacher_parameters = (m.cost.parameters if m else None for m in (shipped, taught))
    accuracy = result.shipped.accuracy
    teacher_accuracy = result.teacher.accuracy if result.teacher else None
    majority = majority_share(shipped)
    return Figures(
        size=size,
        parameters=parameters,
        latency=p50(shipped),
        accuracy=accuracy,
        shipped_interval=shipped.accuracy.interval if shipped else None,
        shipped_accuracy=shipped.accuracy.value if shipped else None,
        test_samples=shipped.accuracy.total if shipped else None,
        teacher_size=teacher_size,
        teacher_parameters=teacher_parameters,
        teacher_latency=p50(taught),
        teacher_accuracy=teacher_accuracy,
        compression=quotient(teacher_size, size),
        fewer_parameters=quotient(teacher_parameters, parameters),
        speedup=quotient(p50(taught), p50(shipped)),
        speedup_range=_range(one_thread(taught), one_thread(shipped)),
        latency_spread=one_thread(shipped),
        majority=majority,
        retained_above_majority=_above(accuracy.mean, teacher_accuracy, majority),
        student_at_chance=_at_chance(shipped, accuracy.mean, majority),
        teacher_at_chance=teacher_accuracy is not None
        and _at_chance(taught, teacher_accuracy.mean, majority),
        retained=quotient(accuracy.mean, teacher_accuracy.mean if teacher_accuracy else None),
        missed=tuple(check.name for check in result.budget if not check.met),
    )
