"""Group fairness by one sensitive attribute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.fairness import groups
from limbeck.evaluate.fairness.drawn import Array, Before, compared
from limbeck.evaluate.fairness.groups import Members, Rates, Tallies
from limbeck.evaluate.fairness.inheritance import Inheritance, inheritance
from limbeck.evaluate.finding import Better, Estimate, Finding
from limbeck.evaluate.interval import Result, wilson

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
        better: Whether higher or lower is better.
        how: Its definition, as a sentence begins.
    """

    name: str
    figure: Callable[[Rates], Array]
    better: Better
    how: str

    def worst(self, values: Array) -> int:
        """Return the class, of `values [classes]`, with the largest gap."""
        return int(np.nanargmax(values) if self.better == "lower" else np.nanargmin(values))

    def over_classes(self, values: Array) -> Array:
        """Reduce to the worst class per draw: `[draws, classes]` to `[draws]`."""
        end = np.fmax if self.better == "lower" else np.fmin
        return end.reduce(values, axis=1)


GAPS = (
    Gap(
        "Demographic parity difference",
        groups.parity_difference,
        "lower",
        "The largest share of a group that gets the answer, less the smallest",
    ),
    Gap(
        "Demographic parity ratio",
        groups.parity_ratio,
        "higher",
        "The smallest share of a group that gets the answer, as a share of the largest",
    ),
    Gap(
        "Equalised odds difference",
        groups.odds_difference,
        "lower",
        "The larger of two gaps between groups: of those rightly, and of those wrongly, said to be "
        "of the class",
    ),
)


def compare_groups(
    name: str, of: NDArray[np.str_], before: Before, *, chosen: tuple[int, ...]
) -> tuple[Attribute, list[Finding], list[str]]:
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
    findings: list[Finding] = []
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


def _judged(before: Before, members: Members, tally: Tallies, enough: Enough) -> Rates:
    """Compute the rates of all draws, NaN where a group has too few samples."""
    labelled = tally.labelled[0]
    others = tally.samples[0][:, None] - labelled
    whole = np.repeat(enough[:, None], len(before.classes), axis=1)
    everything = [members.rates(np.ones((1, len(before.labels))))]
    everything += [members.rates(counts) for counts in before.resamples.counts()]
    return Rates(
        accuracy=_only([rates.accuracy for rates in everything], enough),
        selection=_only([rates.selection for rates in everything], whole),
        hits=_only([rates.hits for rates in everything], labelled >= before.smallest),
        false_alarms=_only([rates.false_alarms for rates in everything], others >= before.smallest),
    )


def _only(blocks: list[Array], enough: Enough) -> Array:
    """Mask groups that are too small, and rates with fewer than two groups left."""
    kept = enough & (enough.sum(axis=0) > 1)
    return np.where(kept, np.concatenate(blocks), np.nan)


def _findings(
    name: str, before: Before, rates: list[Rates], chosen: tuple[int, ...]
) -> tuple[list[Finding], list[str]]:
    among = f"among groups with at least {before.smallest} samples for it"
    accuracy = compared(
        f"Accuracy gap by {name}",
        [groups.spread(side.accuracy) for side in rates],
        samples=len(before.labels),
        better="lower",
        how=f"The largest accuracy of a group less the smallest, {among}.",
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
                better=gap.better,
                how=f"{gap.how}{most}, {among}.",
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
    worst = chosen[GAPS[0].worst(groups.parity_difference(teacher)[0, chosen])]
    return (
        inheritance("accuracy", names, student=student.accuracy, teacher=teacher.accuracy),
        inheritance(
            f"share answered {classes[worst]}",
            names,
            student=student.selection[..., worst],
            teacher=teacher.selection[..., worst],
        ),
    )
