"""Details of a task: scores by class, step or target, agreement with the teacher, and samples.

The functions come from the task (`limbeck.tasks.details`); here they are computed over the test
samples of both exported files, with intervals by the paired bootstrap over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.detail_results import (
    BreakdownResult,
    BreakdownRow,
    Reason,
    ShownSample,
    TaskDetails,
)
from limbeck.evaluate.metrics import score_value
from limbeck.tasks.details import Breakdown, Details, Shown
from limbeck.tasks.scores import Arrays, Counts, Parts, ScoreTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.core.illustration import Plot
    from limbeck.core.measurement import ScoreValue
    from limbeck.evaluate.comparison import Estimate
    from limbeck.tasks.scores import Score

    Floats = NDArray[np.float64]

BLOCKS = 3
"""The number of equal parts of the test split from each of which two samples are shown."""

OVERVIEW = 300
"""The largest number of samples of an overview."""


@dataclass(frozen=True)
class Pair:
    """A batch with its weights and both models' outputs; the teacher's None without a teacher."""

    batch: Arrays
    weights: Arrays
    student: Arrays
    teacher: Arrays | None


@dataclass(frozen=True)
class Source:
    """The test samples of two models.

    Attributes:
        batches: Returns all samples in order, each batch predicted by both models.
        rows: Returns some samples, predicted by both models.
        raw: Returns a sample as stored.
        samples: The number of samples.
    """

    batches: Callable[[], Iterable[Pair]]
    rows: Callable[[Sequence[int]], Pair]
    raw: Callable[[int], dict[str, object]]
    samples: int


@dataclass
class _Table:
    """The parts of a breakdown over all samples, of both models."""

    breakdown: Breakdown
    student: list[Parts] = field(default_factory=list)
    teacher: list[Parts] = field(default_factory=list)


def task_details(details: Details, source: Source, *, seed: int = 0) -> TaskDetails:
    """Compute the details of a task over the test samples.

    Args:
        details: The task's functions.
        source: The samples, and both models' predictions.
        seed: The seed of the bootstrap.
    """
    tables = [_Table(one) for one in details.breakdowns]
    agreement = ScoreTable(details.agreements)
    compared = False
    for pair in source.batches():
        # Several breakdowns may have the same parts.
        functions = {table.breakdown.parts for table in tables}
        student, teacher = (
            {} if side is None else {one: one(side, pair.batch, pair.weights) for one in functions}
            for side in (pair.student, pair.teacher)
        )
        for table in tables:
            table.student.append(student[table.breakdown.parts])
            if teacher:
                table.teacher.append(teacher[table.breakdown.parts])
        if pair.teacher is not None and details.relabelled is not None:
            compared = True
            labelled = details.relabelled(pair.teacher, pair.batch)
            agreement.update(pair.student, labelled, pair.weights)
    resamples = Resamples(source.samples, seed=seed)
    samples: tuple[ShownSample, ...] = ()
    agreements: tuple[ScoreValue, ...] = ()
    if compared and details.agreements:
        values = [score_value(agreement, one, seed=seed) for one in details.agreements]
        agreements = tuple(one for one in values if np.isfinite(one.value))
        samples = _samples(details, agreement, source)
    return TaskDetails(
        breakdowns=tuple(_breakdown(one, resamples) for one in tables),
        agreements=agreements,
        samples=samples,
        overview=_overview(details, source),
        legend=details.legend,
        caption=_caption(details) if samples else details.drawing,
    )


def _joined(parts: list[Parts]) -> Parts:
    if any(isinstance(one, list) for one in parts):
        return [rows for one in parts for rows in one]
    return np.concatenate(parts)


def _breakdown(table: _Table, resamples: Resamples) -> BreakdownResult:
    found = table.breakdown
    student = _joined(table.student)
    teacher = _joined(table.teacher) if table.teacher else None

    def values(counts: Counts) -> Floats:
        own = found.value(student, counts)
        if teacher is None:
            return own
        reference = found.value(teacher, counts)
        return np.concatenate([own, reference, found.drop(own, reference)], axis=1)

    estimates = resamples.estimates(values)
    count = len(found.names)
    columns = [estimates[start : start + count] for start in range(0, len(estimates), count)]
    rows, absent = [], []
    for name, *each in zip(found.names, *columns, strict=True):
        figures = [_finite(one) for one in each]
        if not any(figures):
            absent.append(name)
            continue
        named = dict(zip(("student", "teacher", "drop"), figures, strict=False))
        rows.append(BreakdownRow(name=name, **named))
    return BreakdownResult(
        metric=found.metric,
        by=found.by,
        rows=tuple(rows),
        absent=tuple(absent),
        ordered=found.ordered,
        note=found.note,
    )


def _finite(estimate: Estimate) -> Estimate | None:
    """Return an estimate, without an interval that is not finite; None if its value is not."""
    if not np.isfinite(estimate.value):
        return None
    return estimate if np.isfinite(estimate.ends).all() else Estimate(value=estimate.value)


def chosen(values: Floats, *, higher_is_better: bool = True) -> list[tuple[int, Reason]]:
    """Return the samples to show, with the reason, by their agreement, `[samples]`.

    From each third of the split, in its order: the sample of the least agreement, `different`, and
    the one nearest to the third's median, `typical`; of equal ones the first. Samples without an
    agreement (NaN) count as typical.

    Example:
        >>> chosen(np.array([0.9, 0.1, 0.8, 1.0, 1.0, 0.5, 0.7, 0.6, 0.2]))
        [(1, 'different'), (2, 'typical'), (3, 'typical'), (5, 'different'), (7, 'typical'),
        (8, 'different')]
    """
    distance = -values if higher_is_better else values
    typical = np.nanmedian(distance) if np.isfinite(distance).any() else 0.0
    distance = np.where(np.isnan(distance), typical, distance)
    found: dict[int, Reason] = {}
    for rows in np.array_split(np.arange(len(values)), min(BLOCKS, len(values))):
        own = distance[rows]
        found[int(rows[own.argmax()])] = "different"
        others = np.delete(rows, own.argmax())
        if len(others):
            gaps = np.abs(distance[others] - np.median(own))
            found[int(others[gaps.argmin()])] = "typical"
    return sorted(found.items())


def _samples(details: Details, agreement: ScoreTable, source: Source) -> tuple[ShownSample, ...]:
    if details.illustrate is None:
        return ()
    first: Score = details.agreements[0]
    parts, one = agreement.parts(first), np.ones((1, 1))
    each = np.array(
        [first.value(parts[place : place + 1], one)[0] for place in range(source.samples)]
    )
    shown = []
    for index, reason in chosen(each, higher_is_better=first.metric.higher_is_better):
        pair = source.rows([index])
        if pair.teacher is None:
            continue
        sample = Shown(source.raw(index), pair.batch, pair.student, pair.teacher)
        shown.append(
            ShownSample(
                index=index,
                reason=reason,
                agreement=float(each[index]) if np.isfinite(each[index]) else None,
                illustration=details.illustrate(sample),
            )
        )
    return tuple(shown)


def _overview(details: Details, source: Source) -> tuple[Plot, ...]:
    if details.overview is None:
        return ()
    count = min(source.samples, OVERVIEW)
    rows = np.linspace(0, source.samples - 1, count).round().astype(int).tolist()
    pair = source.rows(rows)
    if pair.teacher is None:
        return ()
    return details.overview(Shown({}, pair.batch, pair.student, pair.teacher))


def _caption(details: Details) -> str:
    metric = details.agreements[0].metric
    extreme = "lowest" if metric.higher_is_better else "largest"
    return (
        f"From each third of the test split, in its order: the sample with the {extreme} "
        f"{metric.text} of student and teacher, and the one nearest to the median. None was "
        f"chosen by hand. {details.drawing}"
    ).strip()
