"""Group fairness metrics: demographic parity difference and ratio, equalised odds difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import proportion
from limbeck.evaluate.comparison import Direction, Estimate, MetricComparison
from limbeck.evaluate.fairness.bootstrap import Array, FairnessInputs, Labels, estimate


@dataclass(frozen=True)
class Rates:
    r"""The rates of a model per draw and group; each class against the rest.

    A group without samples has no rates: NaN. A group with samples, but none of the kind that a
    rate is a share of (no positives), has the rate 0, as in fairlearn.

    Attributes:
        accuracy: $P(\hat y = y \mid g)$, `[draws, groups]`.
        selection: $P(\hat y = c \mid g)$, `[draws, groups, classes]`.
        true_positive_rate: $P(\hat y = c \mid g, y = c)$, the same shape.
        false_positive_rate: $P(\hat y = c \mid g, y \neq c)$, the same shape.
    """

    accuracy: Array
    selection: Array
    true_positive_rate: Array
    false_positive_rate: Array


def tally(labels: Labels, predicted: Labels, groups: Labels, classes: int, counts: Array) -> Array:
    """Count samples per draw and group: `[draws, groups, 1 + 3 * classes]`.

    The last axis holds the number of samples, then for each class the number of samples with this
    label, with this prediction, and with both.

    Args:
        labels: `[samples]`.
        predicted: The predicted classes, `[samples]`.
        groups: The group index of each sample, `[samples]`.
        classes: Number of classes.
        counts: How often each sample counts, `[draws, samples]`.

    Example:
        >>> labels, groups = np.array([1, 1, 0, 0]), np.array([0, 1, 0, 1])
        >>> predicted, once = np.array([1, 0, 0, 0]), np.ones((1, 4))
        >>> found = rates(tally(labels, predicted, groups, 2, once))
        >>> found.accuracy, parity_difference(found)
        (array([[1. , 0.5]]), array([[0.5, 0.5]]))
    """
    samples, width = len(labels), 1 + 3 * classes
    cells = np.stack(
        [np.zeros_like(labels), 1 + labels, 1 + classes + predicted, 1 + 2 * classes + labels]
    )
    rows, columns = (groups * width + cells).ravel(), np.tile(np.arange(samples), 4)
    values = np.concatenate([np.ones(3 * samples), labels == predicted])
    # Each sample is in at most four cells, so a sparse product is fast: a thousand draws of ten
    # thousand samples cost as much as four dense ones.
    shape = ((int(groups.max()) + 1) * width, samples)
    counted = scipy.sparse.csr_array((values, (rows, columns)), shape=shape) @ counts.T
    return np.asarray(counted.T).reshape(len(counts), -1, width)


def rates(table: Array, smallest: int = 0) -> Rates:
    """Compute the rates from the result of `tally`.

    NaN where a rate's denominator in the first draw is below `smallest`, and where that leaves
    fewer than two groups; with `smallest` 0, only where a group has no samples.
    """
    samples = table[..., :1]
    labelled, predicted, right = np.split(table[..., 1:], 3, axis=-1)

    def rate(part: Array, of: Array) -> Array:
        share = np.divide(part, of, out=np.zeros(part.shape), where=of > 0)
        enough = of[0] >= smallest
        judged = enough & (enough.sum(axis=0) > 1) if smallest else True
        return np.where((samples > 0) & judged, share, np.nan)

    return Rates(
        accuracy=rate(right.sum(axis=-1, keepdims=True), samples)[..., 0],
        selection=rate(predicted, samples),
        true_positive_rate=rate(right, labelled),
        false_positive_rate=rate(predicted - right, samples - labelled),
    )


def spread(values: Array) -> Array:
    """Compute the largest rate of a group less the smallest, over axis 1; empty groups left out.

    Example:
        >>> spread(np.array([[0.5, 0.8, np.nan]]))
        array([0.3])
    """
    return np.fmax.reduce(values, axis=1) - np.fmin.reduce(values, axis=1)


def parity_difference(found: Rates) -> Array:
    r"""Compute the demographic parity difference of each class, `[draws, classes]`.

    $$\max_g P(\hat y = c \mid g) - \min_g P(\hat y = c \mid g)$$

    Source: Dwork et al., ITCS 2012 (arXiv:1104.3913); fairlearn's
    `demographic_parity_difference`.
    """
    return spread(found.selection)


def parity_ratio(found: Rates) -> Array:
    r"""Compute the demographic parity ratio of each class, `[draws, classes]`; NaN for 0 / 0.

    $$\min_g P(\hat y = c \mid g) \;/\; \max_g P(\hat y = c \mid g)$$

    Source: Feldman et al., KDD 2015 (arXiv:1412.3756), with the rule of four fifths; fairlearn's
    `demographic_parity_ratio`.
    """
    least = np.fmin.reduce(found.selection, axis=1)
    most = np.fmax.reduce(found.selection, axis=1)
    return np.divide(least, most, out=np.full(most.shape, np.nan), where=most > 0)


def odds_difference(found: Rates) -> Array:
    r"""Compute the equalised odds difference of each class, `[draws, classes]`.

    $$\max_{y \in \{c, \neg c\}} \Big(\max_g P(\hat y = c \mid g, y)
      - \min_g P(\hat y = c \mid g, y)\Big)$$

    Source: Hardt et al., NeurIPS 2016 (arXiv:1610.02413); fairlearn's `equalized_odds_difference`.
    """
    return np.fmax(spread(found.true_positive_rate), spread(found.false_positive_rate))


InheritanceOutcome = Literal[
    "none", "inherited", "amplified", "lessened", "reversed", "inconclusive"
]
OUTCOME_PHRASES: dict[InheritanceOutcome, str] = {
    "none": "the teacher has no significant gap that could be inherited",
    "inherited": "the student has inherited the gap",
    "amplified": "the student has amplified the gap",
    "lessened": "the student has reduced the gap",
    "reversed": "the student has reversed the gap",
    "inconclusive": "there are too few samples to classify the student's gap",
}


class Inheritance(Result):
    """The outcome, in the student, of the teacher's gap between its best and its worst group.

    Attributes:
        rate: The rate of the gap: "accuracy", or the share predicted as a class.
        most: The group with the teacher's largest rate.
        least: The group with the smallest.
        teacher: The teacher's gap, never below zero.
        student: The student's between the same two groups; negative if reversed.
        amplification: Student's less teacher's, on the same samples.
        share: The student's gap as a share of the teacher's, where the teacher has one.
    """

    rate: str
    most: str
    least: str
    teacher: Estimate
    student: Estimate
    amplification: Estimate
    share: float | None
    outcome: InheritanceOutcome
    summary: str


def inheritance(
    rate: str, names: tuple[str, ...], *, student: Array, teacher: Array
) -> Inheritance:
    """Measure the inheritance of the teacher's largest gap by the student.

    Args:
        rate: The rate, for the sentence.
        names: The groups' names.
        student: The student's rates of the samples, then of the resamples: `[1 + draws, groups]`.
        teacher: The teacher's, of the same draws.

    Example:
        >>> draws = np.random.default_rng(0).normal(scale=0.01, size=(201, 2))
        >>> found = inheritance(
        ...     "accuracy", ("a", "b"), student=draws + [0.9, 0.6], teacher=draws + [0.9, 0.8]
        ... )
        >>> found.outcome, found.most, found.least
        ('amplified', 'a', 'b')
    """
    most, least = int(np.nanargmax(teacher[0])), int(np.nanargmin(teacher[0]))
    gaps = [side[:, most] - side[:, least] for side in (teacher, student)]
    before, after, change = map(estimate, (*gaps, gaps[1] - gaps[0]))
    outcome = inheritance_outcome(teacher=before, student=after, amplification=change)
    return Inheritance(
        rate=rate,
        most=names[most],
        least=names[least],
        teacher=before,
        student=after,
        amplification=change,
        share=None if outcome == "none" else after.value / before.value,
        outcome=outcome,
        summary=f"{rate[0].upper()}{rate[1:]}, {names[most]} compared with {names[least]}: "
        f"{OUTCOME_PHRASES[outcome]} ({100 * after.value:.1f} points; the teacher's is "
        f"{100 * before.value:.1f}).",
    )


def inheritance_outcome(
    *, teacher: Estimate, student: Estimate, amplification: Estimate
) -> InheritanceOutcome:
    """Classify the outcome of a gap, by the intervals of both and of their difference.

    `none`: the teacher's contains zero. Then by the student's: `reversed` where all of it lies
    below zero; `amplified` and `lessened` where all of the difference lies on one side of zero;
    `inherited` where the student's excludes zero and the difference does not; else `inconclusive`.
    """
    student_low, student_high = student.ends
    change_low, change_high = amplification.ends
    if teacher.ends[0] <= 0:
        return "none"
    if student_high < 0:
        return "reversed"
    if change_low > 0:
        return "amplified"
    if change_high < 0:
        return "lessened"
    return "inherited" if student_low > 0 else "inconclusive"


class GroupFigures(Result):
    """One group: its number of samples, whether they suffice, and the accuracy of both models."""

    name: str
    samples: int
    judged: bool
    student: Estimate
    teacher: Estimate | None


class ClassGaps(Result):
    """The gaps between groups for one class against the rest, the student's value first.

    None where fewer than two groups have enough samples, or where no sample is predicted as it.
    """

    name: str
    parity_difference: tuple[float | None, ...]
    parity_ratio: tuple[float | None, ...]
    odds_difference: tuple[float | None, ...]


class Attribute(Result):
    """The results of one sensitive attribute: its groups, gaps by class, and bias inheritance."""

    name: str
    groups: tuple[GroupFigures, ...]
    gaps: tuple[ClassGaps, ...]
    inherited: tuple[Inheritance, ...]


@dataclass(frozen=True)
class Gap:
    """A fairness metric: a gap between groups, `[draws, classes]`, and its definition."""

    name: str
    figure: Callable[[Rates], Array]
    direction: Direction
    method: str

    def worst(self, values: Array) -> int:
        """Return the class with the largest gap, of `values [classes]`."""
        return int(np.nanargmax(values) if self.direction == "lower" else np.nanargmin(values))

    def over_classes(self, values: Array) -> Array:
        """Reduce to the worst class per draw: `[draws, classes]` to `[draws]`."""
        end = np.fmax if self.direction == "lower" else np.fmin
        return end.reduce(values, axis=1)


GAPS = {
    "parity_difference": Gap(
        "Demographic parity difference",
        parity_difference,
        "lower",
        "The largest share of a group predicted as the class, less the smallest",
    ),
    "parity_ratio": Gap(
        "Demographic parity ratio",
        parity_ratio,
        "higher",
        "The smallest share of a group predicted as the class, divided by the largest",
    ),
    "odds_difference": Gap(
        "Equalised odds difference",
        odds_difference,
        "lower",
        "The larger of the gaps between groups in true positive rate and in false positive rate",
    ),
}
"""The metrics, by their fields of `ClassGaps`."""


def compare_groups(
    name: str, groups: NDArray[np.str_], inputs: FairnessInputs
) -> tuple[Attribute, list[MetricComparison], list[str]]:
    """Compare the groups of one sensitive attribute.

    Args:
        name: The attribute.
        groups: The group of each sample, `[samples]`.
        inputs: The labels and predictions.

    Returns:
        The results, the metric comparisons, and notes on groups and metrics that are left out.
    """
    values, number = np.unique(groups, return_inverse=True)
    names = tuple(map(str, values))
    tables = [
        inputs.drawn(partial(tally, inputs.labels, predicted, number, len(inputs.classes)))
        for predicted in inputs.predicted
    ]
    samples = tables[0][0, :, 0]
    enough = samples >= inputs.smallest
    notes = inputs.too_small(f"Groups of {name}", names, samples)
    comparisons: list[MetricComparison] = []
    gaps: tuple[ClassGaps, ...] = ()
    inherited: tuple[Inheritance, ...] = ()
    if enough.sum() < 2:
        notes.append(f"By {name}, fewer than two groups can be judged, so there is no gap.")
    else:
        both = [rates(table, inputs.smallest) for table in tables]
        comparisons, unknown = _compared_gaps(name, inputs, both)
        notes += unknown
        gaps = _by_class(inputs, both)
        if len(both) > 1:
            inherited = _inherited(inputs, names, both[0], both[1])
    figures = []
    for g, group in enumerate(names):
        right = [int(table[0, g, -len(inputs.classes) :].sum()) for table in tables]
        student, *teacher = [proportion(hits, int(samples[g])) for hits in right]
        figures.append(
            GroupFigures(
                name=group,
                samples=int(samples[g]),
                judged=bool(enough[g]),
                student=student,
                teacher=teacher[0] if teacher else None,
            )
        )
    attribute = Attribute(name=name, groups=tuple(figures), gaps=gaps, inherited=inherited)
    return attribute, comparisons, notes


def _compared_gaps(
    name: str, inputs: FairnessInputs, both: list[Rates]
) -> tuple[list[MetricComparison], list[str]]:
    positives = inputs.positives
    among = f"among groups with at least {inputs.smallest} samples for it"
    accuracy = inputs.compared(
        f"Accuracy gap by {name}",
        [spread(side.accuracy) for side in both],
        direction="lower",
        method=f"The largest accuracy of a group less the smallest, {among}.",
    )
    comparisons, notes = [accuracy], []
    for gap in GAPS.values():
        values = [gap.figure(side)[:, positives] for side in both]
        if any(np.isnan(side[0]).all() for side in values):
            notes.append(
                f"{gap.name} by {name} could not be computed: fewer than two groups have "
                f"{inputs.smallest} samples for it, or no sample is predicted as the class."
            )
            continue
        worst = inputs.classes[positives[gap.worst(values[0][0])]]
        most = ", in the class with the largest gap" if len(positives) > 1 else ""
        comparisons.append(
            inputs.compared(
                f"{gap.name} by {name}, {worst}",
                [gap.over_classes(side) for side in values],
                direction=gap.direction,
                method=f"{gap.method}{most}, {among}.",
            )
        )
    return comparisons, notes


def _by_class(inputs: FairnessInputs, both: list[Rates]) -> tuple[ClassGaps, ...]:
    values = {field: [gap.figure(side)[0] for side in both] for field, gap in GAPS.items()}
    return tuple(
        ClassGaps(
            name=inputs.classes[c],
            **{
                field: tuple(float(side[c]) if np.isfinite(side[c]) else None for side in sides)
                for field, sides in values.items()
            },
        )
        for c in inputs.positives
    )


def _inherited(
    inputs: FairnessInputs, names: tuple[str, ...], student: Rates, teacher: Rates
) -> tuple[Inheritance, ...]:
    """Measure bias inheritance of two gaps: of accuracy, and of the class with the largest gap."""
    differences = parity_difference(teacher)[0, inputs.positives]
    worst = inputs.positives[GAPS["parity_difference"].worst(differences)]
    return (
        inheritance("accuracy", names, student=student.accuracy, teacher=teacher.accuracy),
        inheritance(
            f"share predicted as {inputs.classes[worst]}",
            names,
            student=student.selection[..., worst],
            teacher=teacher.selection[..., worst],
        ),
    )
