"""The typed results of a task's details; `limbeck.evaluate.details` computes them."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from limbeck.core.illustration import Illustration, Key, Plot
from limbeck.core.measurement import Metric, Result, ScoreValue
from limbeck.evaluate.comparison import Estimate

Reason: TypeAlias = Literal["different", "typical"]


class BreakdownRow(Result):
    """A metric of one class, step or target.

    Attributes:
        name: The class, step, ...
        student: The student's value; None where it is undefined, here and in the others.
        teacher: The teacher's, if there is one.
        drop: By how much the student is worse than the teacher; negative where it is better.
    """

    name: str
    student: Estimate | None
    teacher: Estimate | None = None
    drop: Estimate | None = None


class BreakdownResult(Result):
    """A metric by class, step or target, in the order of the task; `by` is what a row is.

    Rows without a value of either model, such as a class that no test sample has, are left out and
    named in `absent`.
    """

    metric: Metric
    by: str
    rows: tuple[BreakdownRow, ...]
    absent: tuple[str, ...] = ()
    ordered: bool = False
    note: str = ""

    @property
    def by_drop(self) -> tuple[BreakdownRow, ...]:
        """Return the rows by descending drop; without a teacher, from the worst value on."""
        sign = -1.0 if self.metric.higher_is_better else 1.0

        def key(row: BreakdownRow) -> float:
            if row.drop is not None:
                return row.drop.value
            return -math.inf if row.student is None else sign * row.student.value

        return tuple(sorted(self.rows, key=key, reverse=True))


class ShownSample(Result):
    """A test sample with both models' predictions.

    Attributes:
        index: Its position in the test split.
        reason: Why it was chosen: `different` or `typical`.
        agreement: The score by which it was chosen, of this sample; None if it is undefined.
        illustration: The sample, drawn.
    """

    index: int
    reason: Reason
    agreement: float | None
    illustration: Illustration


class GeneratedText(Result):
    """Texts that both models generate after the beginning of a test sample.

    Attributes:
        index: The position of the sample in the test split.
        prompt: The beginning.
        truth: Its continuation in the sample, of at most as many tokens.
        student: The student's continuation, greedy.
        teacher: The teacher's; None without a teacher.
    """

    index: int
    prompt: str
    truth: str
    student: str
    teacher: str | None = None


class TaskDetails(Result):
    """The details of a task in a report, for the shipped student of one seed.

    Attributes:
        breakdowns: Scores by class, step or target, of both models.
        agreements: Scores of the student against the teacher's predictions; none without a teacher,
            and without those that are undefined, as of boxes where neither model has any.
        samples: Test samples with both models' predictions, in the order of the split.
        overview: Charts of many samples.
        texts: Generated texts of a language model.
        legend: The legend of the classes in illustrations.
        caption: How samples were chosen and drawn.
        problem: The error that the task's own functions raised; then there is nothing else.
    """

    breakdowns: tuple[BreakdownResult, ...] = ()
    agreements: tuple[ScoreValue, ...] = ()
    samples: tuple[ShownSample, ...] = ()
    overview: tuple[Plot, ...] = ()
    texts: tuple[GeneratedText, ...] = ()
    legend: tuple[Key, ...] = ()
    caption: str = ""
    problem: str = ""
