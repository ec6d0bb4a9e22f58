"""Group fairness metrics: demographic parity difference and ratio, equalised odds difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.comparison import Direction, Estimate, MetricComparison
from limbeck.evaluate.fairness.bootstrap import Array, FairnessInputs, compared, estimate
from limbeck.evaluate.intervals import wilson


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
        answered: Those predicted as the class, the same shape.
        right: Those correctly predicted as it, the same shape.
    """

    samples: Array
    labelled: Array
    answered: Array
    right: Array

    def rates(self) -> Rates:
        """Compute the rates from the counts."""
        everybody = self.samples[..., None]
        others = everybody - self.labelled
        return Rates(
            accuracy=_share(self.right.sum(axis=-1), self.samples, self.samples),
            selection=_share(self.answered, everybody, everybody),
            true_positive_rate=_share(self.right, self.labelled, everybody),
            false_positive_rate=_share(self.answered - self.right, others, everybody),
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
        >>> members.rates().accuracy
        array([[1. , 0.5]])
        >>> parity_difference(members.rates())
        array([[0.5, 0.5]])
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        predicted: NDArray[np.int64],
        groups: NDArray[np.int64],
        *,
        classes: int,
    ) -> None:
        self._shape = (int(groups.max()) + 1, classes)
        self._samples = len(labels)
        cells = self._shape[0] * classes
        rows = np.arange(len(labels))
        right = labels == predicted
        places = [
            groups,
            self._shape[0] + groups * classes + labels,
            self._shape[0] + cells + groups * classes + predicted,
            self._shape[0] + 2 * cells + (groups * classes + labels)[right],
        ]
        column = np.concatenate(places)
        row = np.concatenate([rows, rows, rows, rows[right]])
        size = (self._shape[0] + 3 * cells, len(labels))
        # Each sample is in at most four cells, so a sparse product is fast: a thousand draws of ten
        # thousand samples cost as much as four dense ones.
        self._cells = scipy.sparse.csr_array((np.ones(len(row)), (column, row)), shape=size)

    def tally(self, counts: Array | None = None) -> Tallies:
        """Count samples, weighted by `counts [draws, samples]`; by default each counts once."""
        counts = np.ones((1, self._samples)) if counts is None else counts
        table = np.asarray((self._cells @ counts.T).T)
        groups, classes = self._shape
        cells = groups * classes
        ends = [groups, groups + cells, groups + 2 * cells]
        samples, *parts = np.split(table, ends, axis=1)
        return Tallies(samples, *(part.reshape(-1, groups, classes) for part in parts))

    def rates(self, counts: Array | None = None) -> Rates:
        """Compute the rates; `counts` as for `tally`."""
        return self.tally(counts).rates()


def _share(part: Array, of: Array, group: Array) -> Array:
    """Compute a ratio; 0 where the denominator is 0, NaN where the group itself is empty."""
    share = np.divide(part, of, out=np.zeros(part.shape), where=of > 0)
    return np.where(group > 0, share, np.nan)


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
    "none": "the teacher makes no clear difference between the two, so there is none to inherit",
    "inherited": "the student has inherited the gap",
    "amplified": "the student has inherited the gap and made it larger",
    "lessened": "the student has made the gap smaller",
    "reversed": "the student has turned the gap round",
    "inconclusive": "there are too few samples to tell what became of the gap",
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
        outcome: The outcome; see `fate_of`.
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
    gap = student[:, most] - student[:, least]
    model = teacher[:, most] - teacher[:, least]
    before, after, grown = (estimate(values) for values in (model, gap, gap - model))
    fate = inheritance_outcome(teacher=before, student=after, amplification=grown)
    return Inheritance(
        rate=rate,
        most=names[most],
        least=names[least],
        teacher=before,
        student=after,
        amplification=grown,
        share=None if fate == "none" else after.value / before.value,
        outcome=fate,
        summary=f"{rate[0].upper()}{rate[1:]}, {names[most]} before {names[least]}: "
        f"{OUTCOME_PHRASES[fate]} ({100 * after.value:.1f} points; the teacher's is "
        f"{100 * before.value:.1f}).",
    )


def inheritance_outcome(
    *, teacher: Estimate, student: Estimate, amplification: Estimate
) -> InheritanceOutcome:
    """Classify the outcome of a gap, by the intervals of both and of their difference.

    `none`: the teacher's contains zero. Then by the student's: `reversed` where all of it lies
    below zero; `amplified` and `lessened` where all of the difference lies on one side of zero;
    `inherited` where the student's excludes zero and the difference does not; else `open`.
    """
    if _low(teacher) <= 0:
        return "none"
    if _high(student) < 0:
        return "reversed"
    if _low(amplification) > 0:
        return "amplified"
    if _high(amplification) < 0:
        return "lessened"
    return "inherited" if _low(student) > 0 else "inconclusive"


def _low(found: Estimate) -> float:
    return found.value if found.interval is None else found.interval.low


def _high(found: Estimate) -> float:
    return found.value if found.interval is None else found.interval.high


Enough = NDArray[np.bool_]


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
        """Return the class, of `values [classes]`, with the largest gap."""
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
        "The largest share of a group that gets the answer, less the smallest",
    ),
    Gap(
        "Demographic parity ratio",
        parity_ratio,
        "higher",
        "The smallest share of a group that gets the answer, as a share of the largest",
    ),
    Gap(
        "Equalised odds difference",
        odds_difference,
        "lower",
        "The larger of two gaps between groups: of those rightly, and of those wrongly, said to be "
        "of the class",
    ),
)


def compare_groups(
    name: str, of: NDArray[np.str_], before: FairnessInputs, *, chosen: tuple[int, ...]
) -> tuple[Attribute, list[MetricComparison], list[str]]:
    """Compare the groups of one sensitive attribute.

    Args:
        name: The attribute.
        of: The group of each sample, `[samples]`.
        before: The labels and predictions.
        chosen: The classes for which gaps are computed, each against the rest.

    Returns:
        The results, the metric comparisons, and what could not be judged.
    """
    found, number = np.unique(of, return_inverse=True)
    names = tuple(str(each) for each in found)
    members = [
        Members(before.labels, predicted, number, classes=len(before.classes))
        for predicted in before.predicted
    ]
    tallies = [side.tally() for side in members]
    enough = tallies[0].samples[0] >= before.smallest
    notes = _too_small(name, names, tallies[0].samples[0], before.smallest)
    findings: list[MetricComparison] = []
    gaps: tuple[ClassGaps, ...] = ()
    inherited: tuple[Inheritance, ...] = ()
    if enough.sum() < 2:
        notes.append(f"By {name}, fewer than two groups can be judged, so there is no gap.")
    else:
        rates = [_judged(before, side, tallies[0], enough) for side in members]
        findings, unknown = _findings(name, before, rates, chosen)
        notes += unknown
        gaps = _by_class(before.classes, rates, chosen)
        inherited = _inherited(before.classes, names, rates, chosen)
    figures = _figures(names, tallies, enough)
    return Attribute(name=name, groups=figures, gaps=gaps, inherited=inherited), findings, notes


def _too_small(name: str, names: tuple[str, ...], samples: Array, smallest: int) -> list[str]:
    small = [f"{g} ({int(n)})" for g, n in zip(names, samples, strict=True) if n < smallest]
    if not small:
        return []
    return [
        f"By {name}, too small to be judged, with fewer than {smallest} samples: {', '.join(small)}"
        "."
    ]


def _figures(
    names: tuple[str, ...], tallies: list[Tallies], enough: Enough
) -> tuple[GroupFigures, ...]:
    both = [
        [share(int(side.right[0, g].sum()), int(side.samples[0, g])) for side in tallies]
        for g in range(len(names))
    ]
    return tuple(
        GroupFigures(
            name=name,
            samples=int(tallies[0].samples[0, g]),
            judged=bool(enough[g]),
            student=both[g][0],
            teacher=both[g][1] if len(tallies) > 1 else None,
        )
        for g, name in enumerate(names)
    )


def share(part: int, total: int) -> Estimate:
    """Compute a share with Wilson's interval."""
    return Estimate(value=part / total, interval=wilson(part, total))


def _judged(before: FairnessInputs, members: Members, tally: Tallies, enough: Enough) -> Rates:
    """Compute the rates of all draws, NaN where a group has too few samples."""
    labelled = tally.labelled[0]
    others = tally.samples[0][:, None] - labelled
    whole = np.repeat(enough[:, None], len(before.classes), axis=1)
    everything = [members.rates(np.ones((1, len(before.labels))))]
    everything += [members.rates(counts) for counts in before.resamples.counts()]
    return Rates(
        accuracy=_only([rates.accuracy for rates in everything], enough),
        selection=_only([rates.selection for rates in everything], whole),
        true_positive_rate=_only(
            [rates.true_positive_rate for rates in everything], labelled >= before.smallest
        ),
        false_positive_rate=_only(
            [rates.false_positive_rate for rates in everything], others >= before.smallest
        ),
    )


def _only(blocks: list[Array], enough: Enough) -> Array:
    """Mask groups that are too small, and rates with fewer than two groups left."""
    kept = enough & (enough.sum(axis=0) > 1)
    return np.where(kept, np.concatenate(blocks), np.nan)


def _findings(
    name: str, before: FairnessInputs, rates: list[Rates], chosen: tuple[int, ...]
) -> tuple[list[MetricComparison], list[str]]:
    among = f"among groups with at least {before.smallest} samples for it"
    accuracy = compared(
        f"Accuracy gap by {name}",
        [spread(side.accuracy) for side in rates],
        samples=len(before.labels),
        direction="lower",
        method=f"The largest accuracy of a group less the smallest, {among}.",
    )
    findings, notes = [accuracy], []
    for gap in GAPS:
        values = [gap.figure(side)[:, chosen] for side in rates]
        if any(np.isnan(side[0]).all() for side in values):
            notes.append(
                f"{gap.name} by {name} could not be had: fewer than two groups have "
                f"{before.smallest} samples for it, or nobody gets the answer."
            )
            continue
        about = before.classes[chosen[gap.worst(values[0][0])]]
        most = ", in the class where groups lie furthest apart" if len(chosen) > 1 else ""
        findings.append(
            compared(
                f"{gap.name} by {name}, {about}",
                [gap.over_classes(side) for side in values],
                samples=len(before.labels),
                direction=gap.direction,
                method=f"{gap.method}{most}, {among}.",
            )
        )
    return findings, notes


def _by_class(
    classes: tuple[str, ...], rates: list[Rates], chosen: tuple[int, ...]
) -> tuple[ClassGaps, ...]:
    difference, ratio, odds = ([gap.figure(side)[0] for side in rates] for gap in GAPS)
    return tuple(
        ClassGaps(
            name=classes[c],
            parity_difference=tuple(_there(side[c]) for side in difference),
            parity_ratio=tuple(_there(side[c]) for side in ratio),
            odds_difference=tuple(_there(side[c]) for side in odds),
        )
        for c in chosen
    )


def _there(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _inherited(
    classes: tuple[str, ...], names: tuple[str, ...], rates: list[Rates], chosen: tuple[int, ...]
) -> tuple[Inheritance, ...]:
    """Measure bias inheritance of two gaps: of accuracy, and of the class with the largest gap."""
    if len(rates) < 2:
        return ()
    student, teacher = rates
    worst = chosen[GAPS[0].worst(parity_difference(teacher)[0, chosen])]
    return (
        inheritance("accuracy", names, student=student.accuracy, teacher=teacher.accuracy),
        inheritance(
            f"share answered {classes[worst]}",
            names,
            student=student.selection[..., worst],
            teacher=teacher.selection[..., worst],
        ),
    )
