"""Details of a task for a report: scores by class, step or target, agreement, and samples.

They are optional: a task whose property `details` returns a `Details` has them in its report, any
other has none. Predictions are those of the exported files, as arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from limbeck.tasks.scores import Arrays, Counts, Parts, Score, Sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.core.illustration import Illustration, Key, Plot
    from limbeck.core.measurement import Metric


@dataclass(frozen=True)
class Breakdown:
    """A metric of every class, step, quantile, target or label.

    Attributes:
        metric: Name, title, unit and direction.
        names: The rows: classes, steps, ...
        parts: Computes each sample's parts, as those of a `Score`.
        value: Computes the metric of every row per bootstrap draw, `[draws, rows]`, from the parts
            of all samples and how often each counts; NaN where a row has none. `rows_of_sums`
            builds it from a function of sums.
        by: What a row is: class, step, ...
        ordered: Whether the rows are positions, such as steps: they are drawn as a chart as well.
        goals: The value of every row that is best, where neither high nor low is better, such as
            the level of a quantile for its coverage.
        note: How the metric was computed, as a sentence.
    """

    metric: Metric
    names: tuple[str, ...]
    parts: Callable[[Arrays, Arrays, Arrays], Parts]
    value: Callable[[Parts, Counts], NDArray[np.float64]]
    by: str
    ordered: bool = False
    goals: tuple[float, ...] = ()
    note: str = ""

    def drop(
        self, student: NDArray[np.float64], teacher: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Compute by how much the student is worse than the teacher, `[draws, rows]`."""
        if self.goals:
            goals = np.array(self.goals)
            return np.asarray(np.abs(student - goals) - np.abs(teacher - goals))
        return teacher - student if self.metric.higher_is_better else student - teacher


def rows_of_sums(
    function: Callable[[Sums], NDArray[np.float64]],
) -> Callable[[Parts, Counts], NDArray[np.float64]]:
    """Build the values of a breakdown from a function of the sums over samples.

    Args:
        function: Computes the metric of every row from sums, `[..., parts]` to `[..., rows]`; a
            division by 0 is no value.

    Example:
        >>> rows = rows_of_sums(lambda sums: sums[..., :-1] / sums[..., -1:])
        >>> rows(np.array([[1.0, 4.0, 1.0], [3.0, 0.0, 1.0]]), np.ones((1, 2))).tolist()
        [[2.0, 2.0]]
    """

    def value(parts: Parts, counts: Counts) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return function(counts @ np.asarray(parts))

    return value


@dataclass(frozen=True)
class Shown:
    """Samples to be shown: what is stored, the batch, and both models' outputs for it.

    Attributes:
        raw: The sample as stored: an `image`, and `view`, the part of it that the model reads; a
            `text`; a `window`, the past values by column. Empty for several samples.
        batch: Its batch entries, `[n, ...]`.
        student: The student's outputs, of its exported file.
        teacher: The teacher's outputs.
    """

    raw: Mapping[str, Any]
    batch: Arrays
    student: Arrays
    teacher: Arrays


@dataclass(frozen=True)
class Details:
    """The content of a report that a task adds to its scores.

    Attributes:
        breakdowns: Metrics by class, step, quantile, target or label.
        agreements: Scores of the student against the teacher's predictions. By the first one, the
            samples that a report shows are chosen.
        relabelled: Returns the batch with a model's predictions, given by its outputs, in place of
            the labels, for `agreements`.
        illustrate: Shows one sample.
        overview: Draws up to 300 samples, spread evenly over the test split.
        legend: The legend of the classes in illustrations.
        drawing: How samples are drawn, as sentences for the caption.
    """

    breakdowns: tuple[Breakdown, ...] = ()
    agreements: tuple[Score, ...] = ()
    relabelled: Callable[[Arrays, Arrays], Arrays] | None = None
    illustrate: Callable[[Shown], Illustration] | None = None
    overview: Callable[[Shown], tuple[Plot, ...]] | None = None
    legend: tuple[Key, ...] = ()
    drawing: str = ""


@runtime_checkable
class HasDetails(Protocol):
    """A task with details for a report."""

    @property
    def details(self) -> Details:
        """Return the details."""
        ...


def details_of(task: object) -> Details | None:
    """Return the details of a task; None if it has none.

    Example:
        >>> from limbeck.tasks.image_classification import ImageClassification
        >>> details_of(ImageClassification(classes=("cat", "dog"))) is None
        True
    """
    return task.details if isinstance(task, HasDetails) else None
