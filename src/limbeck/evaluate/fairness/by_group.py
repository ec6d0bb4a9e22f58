"""Group fairness metrics: demographic parity difference and ratio, equalised odds difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Tallies:
    """Counts of samples per group, by label and by prediction.

    Attributes:
        samples: Of the group, `[draws, groups]`.
        labelled: Of these, those of the class, `[draws, groups, classes]`.
        predicted: Those predicted as the class, the same shape.
        right: Those correctly predicted as it, the same shape.
    """

    samples: Array
    labelled: Array
    predicted: Array
    right: Array

    def rates(self, smallest: int = 0) -> Rates:
        """Compute the rates from the counts.

        NaN where a rate's denominator in the first draw is below `smallest`, and where that leaves
        fewer than two groups; with `smallest` 0, only where a group has no samples.
        """
        samples = self.samples[..., None]
        negatives = samples - self.labelled

        def rate(part: Array, of: Array) -> Array:
            share = np.divide(part, of, out=np.zeros(part.shape), where=of > 0)
            enough = of[0] >= smallest
            judged = enough & (enough.sum(axis=0) > 1) if smallest else True
            return np.where((samples > 0) & judged, share, np.nan)

        return Rates(
            accuracy=rate(self.right.sum(axis=-1, keepdims=True), samples)[..., 0],
            selection=rate(self.predicted, samples),
            true_positive_rate=rate(self.right, self.labelled),
            false_positive_rate=rate(self.predicted - self.right, negatives),
        )


class Members:
    """Labels, predictions and groups, prepared for counting under many resamples.

    Args:
        labels: `[samples]`.
        predicted: The predicted classes, `[samples]`.
        groups: The group index of each sample, `[samples]`.
        classes: Number of classes.

    Example:
        >>> members = Members(
        ...     np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]), np.array([0, 1, 0, 1]), classes=2
        ... )
        >>> rates = members.tally(members.table(np.ones((1, 4)))).rates()
        >>> rates.accuracy, parity_difference(rates)
        (array([[1. , 0.5]]), array([[0.5, 0.5]]))
    """

    def __init__(self, labels: Labels, predicted: Labels, groups: Labels, *, classes: int) -> None:
        self._shape = n_groups, _ = int(groups.max()) + 1, classes
        cells = n_groups * classes
        right = labels == predicted
        of_label, of_prediction = groups * classes + labels, groups * classes + predicted
        row = np.concatenate(
            [
                groups,
                n_groups + of_label,
                n_groups + cells + of_prediction,
                n_groups + 2 * cells + of_label[right],
            ]
        )
        samples = np.arange(len(labels))
        column = np.concatenate([samples, samples, samples, samples[right]])
        # Each sample is in at most four cells, so a sparse product is fast: a thousand draws of ten
        # thousand samples cost as much as four dense ones.
        self._cells = scipy.sparse.csr_array(
            (np.ones(len(row)), (row, column)), shape=(n_groups + 3 * cells, len(labels))
        )

    def table(self, counts: Array) -> Array:
        """Count samples, weighted by `counts [draws, samples]`, per draw and cell."""
        return np.asarray((self._cells @ counts.T).T)

    def tally(self, table: Array) -> Tallies:
        """Split the cells of a table into the counts by group, label and prediction."""
        groups, classes = self._shape
        ends = groups + groups * classes * np.arange(3)
        samples, *parts = np.split(table, ends, axis=1)
        return Tallies(samples, *(part.reshape(-1, groups, classes) for part in parts))


def spread(rates: Array) -> Array:
    """Compute the largest rate of a group less the smallest, over axis 1; empty groups left out.

    Example:
        >>> spread(np.array([[0.5, 0.8, np.nan]]))
        array([0.3])
    """
    return np.fmax.reduce(rates, axis=1) - np.fmin.reduce(rates, axis=1)


def parity_difference(rates: Rates) -> Array:
    r"""Compute the demographic parity difference of each class, `[draws, classes]`.

    $$\max_g P(\hat y = c \mid g) - \min_g P(\hat y = c \mid g)$$

    Source: Dwork et al., ITCS 2012 (arXiv:1104.3913); fairlearn's
    `demographic_parity_difference`.
    """
    return spread(rates.selection)


def parity_ratio(rates: Rates) -> Array:
    r"""Compute the demographic parity ratio of each class, `[draws, classes]`; NaN for 0 / 0.

    $$\min_g P(\hat y = c \mid g) \;/\; \max_g P(\hat y = c \mid g)$$

    Source: Feldman et al., KDD 2015 (arXiv:1412.3756), with the rule of four fifths; fairlearn's
    `demographic_parity_ratio`.
    """
    least = np.fmin.reduce(rates.selection, axis=1)
    most = np.fmax.reduce(rates.selection, axis=1)
    return np.divide(least, most, out=np.full(most.shape, np.nan), where=most > 0)


def odds_difference(rates: Rates) -> Array:
    r"""Compute the equalised odds difference of each class, `[draws, classes]`.

    $$\max_{y \in \{c, \neg c\}} \Big(\max_g P(\hat y = c \mid g, y)
      - \min_g P(\hat y = c \mid g, y)\Big)$$

    Source: Hardt et al., NeurIPS 2016 (arXiv:1610.02413); fairlearn's `equalized_odds_difference`.
    """
    return np.fmax(spread(rates.true_positive_rate), spread(rates.false_positive_rate))


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
        outcome: The outcome; see `inheritance_outcome`.
        summary: The same as a sentence.
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
        student: The student's rates, `[1 + draws, groups]`: of the samples first, then of the
            bootstrap resamples.
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
    if _ends(teacher)[0] <= 0:
        return "none"
    if _ends(student)[1] < 0:
        return "reversed"
    low, high = _ends(amplification)
    if low > 0:
        return "amplified"
    if high < 0:
        return "lessened"
    return "inherited" if _ends(student)[0] > 0 else "inconclusive"


def _ends(found: Estimate) -> tuple[float, float]:
    interval = found.interval
    return (found.value, found.value) if interval is None else (interval.low, interval.high)


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
    """A fairness metric: a gap between groups.

    Attributes:
        name: Its name.
        figure: Maps rates to one value per draw and class.
        direction: Whether higher or lower is better.
        method: Its definition, as a sentence begins.
    """

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


GAPS = (
    Gap(
        "Demographic parity difference",
        parity_difference,
        "lower",
        "The largest share of a group predicted as the class, less the smallest",
    ),
    Gap(
        "Demographic parity ratio",
        parity_ratio,
        "higher",
        "The smallest share of a group predicted as the class, divided by the largest",
    ),
    Gap(
        "Equalised odds difference",
        odds_difference,
        "lower",
        "The larger of the gaps between groups in true positive rate and in false positive rate",
    ),
)


def compare_groups(
    name: str, groups: NDArray[np.str_], inputs: FairnessInputs, *, positives: tuple[int, ...]
) -> tuple[Attribute, list[MetricComparison], list[str]]:
    """Compare the groups of one sensitive attribute.

    Args:
        name: The attribute.
        groups: The group of each sample, `[samples]`.
        inputs: The labels and predictions.
        positives: The classes for which gaps are computed, each against the rest.

    Returns:
        The results, the metric comparisons, and notes on what could not be judged.
    """
    found, number = np.unique(groups, return_inverse=True)
    names = tuple(map(str, found))
    tallies = []
    for predicted in inputs.predicted:
        members = Members(inputs.labels, predicted, number, classes=len(inputs.classes))
        tallies.append(members.tally(inputs.drawn(members.table)))
    samples = tallies[0].samples[0]
    enough = samples >= inputs.smallest
    notes = inputs.too_small(f"Groups of {name}", names, samples)
    comparisons: list[MetricComparison] = []
    gaps: tuple[ClassGaps, ...] = ()
    inherited: tuple[Inheritance, ...] = ()
    if enough.sum() < 2:
        notes.append(f"By {name}, fewer than two groups can be judged, so there is no gap.")
    else:
        rates = [tally.rates(inputs.smallest) for tally in tallies]
        comparisons, unknown = _compared_gaps(name, inputs, rates, positives)
        notes += unknown
        gaps = _by_class(inputs.classes, rates, positives)
        if len(rates) > 1:
            inherited = _inherited(inputs.classes, names, rates[0], rates[1], positives)
    figures = []
    for g, group in enumerate(names):
        both = [proportion(int(one.right[0, g].sum()), int(samples[g])) for one in tallies]
        figures.append(
            GroupFigures(
                name=group,
                samples=int(samples[g]),
                judged=bool(enough[g]),
                student=both[0],
                teacher=both[1] if len(both) > 1 else None,
            )
        )
    attribute = Attribute(name=name, groups=tuple(figures), gaps=gaps, inherited=inherited)
    return attribute, comparisons, notes


def _compared_gaps(
    name: str, inputs: FairnessInputs, rates: list[Rates], positives: tuple[int, ...]
) -> tuple[list[MetricComparison], list[str]]:
    among = f"among groups with at least {inputs.smallest} samples for it"
    accuracy = inputs.compared(
        f"Accuracy gap by {name}",
        [spread(side.accuracy) for side in rates],
        direction="lower",
        method=f"The largest accuracy of a group less the smallest, {among}.",
    )
    comparisons, notes = [accuracy], []
    for gap in GAPS:
        values = [gap.figure(side)[:, positives] for side in rates]
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


def _by_class(
    classes: tuple[str, ...], rates: list[Rates], positives: tuple[int, ...]
) -> tuple[ClassGaps, ...]:
    difference, ratio, odds = ([gap.figure(side)[0] for side in rates] for gap in GAPS)

    def at(c: int, values: list[Array]) -> tuple[float | None, ...]:
        return tuple(float(side[c]) if np.isfinite(side[c]) else None for side in values)

    return tuple(
        ClassGaps(
            name=classes[c],
            parity_difference=at(c, difference),
            parity_ratio=at(c, ratio),
            odds_difference=at(c, odds),
        )
        for c in positives
    )


def _inherited(
    classes: tuple[str, ...],
    names: tuple[str, ...],
    student: Rates,
    teacher: Rates,
    positives: tuple[int, ...],
) -> tuple[Inheritance, ...]:
    """Measure bias inheritance of two gaps: of accuracy, and of the class with the largest gap."""
    worst = positives[GAPS[0].worst(parity_difference(teacher)[0, positives])]
    return (
        inheritance("accuracy", names, student=student.accuracy, teacher=teacher.accuracy),
        inheritance(
            f"share predicted as {classes[worst]}",
            names,
            student=student.selection[..., worst],
            teacher=teacher.selection[..., worst],
        ),
    )
