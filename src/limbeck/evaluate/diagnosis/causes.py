"""Probable causes of a gain or its absence: rules, each with the evidence that it fired on."""

from __future__ import annotations

from collections.abc import Callable

from scipy import stats

from limbeck.core.measurement import Interval, Result
from limbeck.display import format as fmt
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.context import Role
from limbeck.evaluate.diagnosis.figures import Figures, TargetStatistics, TeacherAgreement
from limbeck.evaluate.intervals import Summary

ONE_HOT = 0.03
"""Targets are nearly one-hot below this share of the largest entropy."""

MEMORISED = 0.98
"""The accuracy on the training rows from which labels count as memorised."""

GAP = 0.05
"""The gap in accuracy between training and test rows that shows it."""

UNFITTED = 0.1
"""The distance to the teacher on the training rows from which the student does not fit it."""

FITTED = 0.02
"""The distance to the teacher on test rows below which nothing is left to gain."""

FARTHER = 1.5
"""The ratio of the distances on test and training rows that shows a lack of rows."""

SILENT = 0.01
"""The gradient share below which a term has no effect."""

TAKEN = 0.8
"""The share of the teacher's lead from which only a better teacher helps."""

MOST_SEEDS = 100


class Cause(Result):
    """A rule that fired.

    Attributes:
        rule: The name of the rule.
        short: The cause as a clause, for a summary.
        evidence: The cause with its figures, as sentences.
        advice: What to do, as sentences.
    """

    rule: str
    short: str
    evidence: str
    advice: str


def causes(found: Figures) -> tuple[Cause, ...]:
    """Apply all rules to the figures, in order: the most probable cause first."""
    return tuple(one for rule in RULES if (one := rule(found)) is not None)


def outcome(found: Figures, fired: tuple[Cause, ...] = ()) -> str:
    """Write in one line whether distillation gains, and the first cause."""
    gain = _gain(found)
    if gain is None:
        text = "The distillation gain is unknown, without a baseline"
    else:
        value, interval = gain
        written = fmt.gain_estimate(value, interval, found.metric)
        if interval is not None and interval.low > 0:
            text = f"Distillation gains over the {found.baseline}: {written} {found.metric.text}"
        elif interval is not None and interval.high < 0:
            text = f"Distillation loses to the {found.baseline}: {written} {found.metric.text}"
        else:
            text = f"No gain over the {found.baseline} is shown: {written} {found.metric.text}"
    return f"{text}{f'; {fired[0].short}' if fired else ''}."


def _gain(found: Figures) -> tuple[float, Interval | None] | None:
    """Return the gain over seeds; of one seed, that over the test samples."""
    seeds, test = found.seeds, found.split("test")
    if seeds is not None and seeds.gain is not None and seeds.gain.interval is not None:
        return seeds.gain.mean, seeds.gain.interval
    if test is not None and test.gain is not None:
        return test.gain.value, test.gain.interval
    return None


def _shown(over_seeds: Summary | None, over_samples: Estimate | None) -> bool:
    """Return whether a difference is positive: over seeds, or over samples in every seed."""
    if over_seeds is None:
        return over_samples is not None and over_samples.ends[0] > 0
    if over_seeds.interval is not None and over_seeds.interval.low > 0:
        return True
    sampled = over_samples is not None and over_samples.ends[0] > 0
    return sampled and min(over_seeds.values) > 0


def _weak_teacher(found: Figures) -> Cause | None:
    test, seeds = found.split("test"), found.seeds
    if test is None or test.headroom is None:
        return None
    over_seeds = seeds.headroom if seeds is not None and seeds.seeds > 1 else None
    lead = test.headroom.value if over_seeds is None else over_seeds.mean
    if lead > 0 and _shown(over_seeds, test.headroom):
        return None
    paired = fmt.gain_estimate(test.headroom.value, test.headroom.interval, found.metric)
    if over_seeds is None or seeds is None:
        scores = [test.scores[role].value for role in ("teacher", "baseline")]
        where = f"{fmt.integer(test.samples)} test samples; paired: {paired}"
    else:
        scores = [seeds.scores[role].mean for role in ("teacher", "baseline")]
        where = f"means of {seeds.seeds} seeds; of the first, paired over test samples: {paired}"
    better = "no better" if lead <= 0 else "not shown to be better"
    both = " and ".join(fmt.score(one, found.metric) for one in scores)
    return Cause(
        rule="weak_teacher",
        short=f"the teacher is {better} than the {found.baseline} ({both})",
        evidence=f"The teacher is {better} than the {found.baseline}: {found.metric.text} {both} "
        f"({where}).",
        advice="Improve the teacher first: train it longer, augment its rows, use an ensemble, or "
        "train it on more rows. If the baseline is already as good as the task allows, a "
        "smaller student or fewer labels would leave something to gain.",
    )


def _one_hot(found: Figures) -> Cause | None:
    train, test = found.target("train"), found.target("test")
    if train is None:
        return None
    if train.error is not None and test is not None and test.error is not None:
        if train.error > test.error / 2:
            return None
        return Cause(
            rule="memorised_labels",
            short="the teacher's outputs on the training rows repeat the labels",
            evidence=f"The teacher's error on the training rows is {train.error:.2f} standard "
            f"deviations of the labels, on test {test.error:.2f}: its targets repeat the labels.",
            advice=UNSEEN,
        )
    largest = found.largest_entropy
    nearly = largest and train.entropy is not None and train.entropy < ONE_HOT * largest
    if not nearly and not _memorised(train, test):
        return None
    on_test = f" (on test {fmt.number(test.entropy)})" if test and test.entropy is not None else ""
    evidence = (
        f"The teacher's targets on the training rows have an entropy of "
        f"{fmt.number(train.entropy)} nats{on_test} and a mean confidence of "
        f"{fmt.percent(train.confidence, 1)}"
    )
    evidence += ": nearly one-hot, with little beyond the labels." if nearly else "."
    if train.accuracy is not None and test is not None and test.accuracy is not None:
        evidence += (
            f" It is correct on {fmt.percent(train.accuracy, 1)} of the labelled training rows and "
            f"on {fmt.percent(test.accuracy, 1)} of the test rows."
        )
    if train.softened_entropy is not None:
        evidence += (
            f" At the objective's temperature of {fmt.trim(fmt.number(found.temperature))} the "
            f"entropy is {fmt.number(train.softened_entropy)} nats."
        )
    short = (
        f"the teacher's targets on the training rows are nearly one-hot "
        f"({fmt.number(train.entropy)} nats)"
        if nearly
        else "the teacher has memorised the training labels"
    )
    return Cause(rule="one_hot_targets", short=short, evidence=evidence, advice=UNSEEN)


def _memorised(train: TargetStatistics, test: TargetStatistics | None) -> bool:
    """Return whether targets on the training rows are far more certain and correct than on test."""
    if test is None or train.accuracy is None or test.accuracy is None:
        return False
    if train.entropy is None or test.entropy is None:
        return False
    learnt = train.accuracy >= MEMORISED and train.accuracy - test.accuracy > GAP
    return learnt and train.entropy < test.entropy / 2


UNSEEN = (
    "Distil on rows or views that the teacher was not trained on (unlabelled rows, augmentation, "
    "mixup), stop the teacher earlier or regularise it; for classes, try a higher temperature."
)


def _fit(found: Figures) -> Cause | None:
    train, test = found.agreement("train"), found.agreement("test")
    near = None if train is None else train.distance
    far = None if test is None else test.distance
    if test is not None and far is not None and train is None and far > UNFITTED:
        return Cause(
            rule="underfits_teacher",
            short=f"the student does not fit its teacher on test rows ({_written(test)})",
            evidence=f"Student and teacher have {_written(test)} on the test rows, and the scheme "
            "reads no training rows: the student does not fit the teacher.",
            advice="Train it longer: its inputs have to cover more of the teacher's function.",
        )
    if train is None or test is None or near is None or far is None:
        return None
    on_train, on_test = _written(train), _written(test)
    compared = (
        f"Student and teacher have {on_train} on the training rows, and {on_test} on the test rows"
    )
    if near > UNFITTED and far < FARTHER * near:
        return Cause(
            rule="underfits_teacher",
            short=f"the student does not fit its teacher on the training rows ({on_train})",
            evidence=f"{compared}: the student does not fit the teacher even where it was trained.",
            advice="Train it longer or with a higher learning rate; if that changes nothing, it is "
            "too small for this teacher: use a larger student or a smaller teacher.",
        )
    if far > FITTED and far > FARTHER * near:
        return Cause(
            rule="few_rows",
            short=f"the student fits its teacher closer on the training rows ({on_train}) than on "
            f"test ({on_test})",
            evidence=f"{compared}: the student fits the teacher closer where it was trained.",
            advice="Distil on more rows: augmentation, mixup or unlabelled rows, which need no "
            "label.",
        )
    return None


def _written(one: TeacherAgreement) -> str:
    if one.agreement is not None:
        return f"{fmt.percent(one.agreement, 1)} {one.name.lower()}"
    return f"a difference of {fmt.number(one.difference or 0.0)} SD"


def _silent_terms(found: Figures) -> Cause | None:
    silent = [one for one in found.terms if one.latest is not None and one.latest < SILENT]
    if not silent or len(found.terms) < 2:
        return None
    named = fmt.listing([f"{one.term} ({fmt.percent(one.latest)})" for one in silent])
    return Cause(
        rule="silent_term",
        short=f"a term has almost no gradient: {named}",
        evidence=f"Share of the gradient below 1 %: {named}.",
        advice="Raise its weight, or remove it: it changes nothing.",
    )


def _taken(found: Figures) -> Cause | None:
    seeds, test = found.seeds, found.split("test")
    if seeds is None or test is None or seeds.recovered is None or seeds.headroom is None:
        return None
    gain = _gain(found)
    shown = gain is not None and gain[1] is not None and gain[1].low > 0
    if seeds.recovered < TAKEN or not shown or not _shown(seeds.headroom, test.headroom):
        return None
    lead = fmt.gain(seeds.headroom.mean, found.metric).lstrip("+")
    share = fmt.percent(seeds.recovered, 0)
    return Cause(
        rule="lead_taken",
        short=f"it takes {share} of the teacher's lead of {lead}",
        evidence=f"The teacher is better than the {found.baseline} by {lead}, of which the student "
        f"takes {share}.",
        advice="Only a better teacher raises the gain; the student itself may be made smaller.",
    )


def _not_taken(found: Figures) -> Cause | None:
    """Return that a lead is not taken, although the student fits its teacher."""
    test, seeds = found.split("test"), found.seeds
    if test is None or test.headroom is None or test.gain is None or _fit(found) is not None:
        return None
    several = seeds is not None and seeds.seeds > 1
    over_seeds = seeds.headroom if seeds is not None and several else None
    lead = test.headroom.value if over_seeds is None else over_seeds.mean
    gain = test.gain.value
    if over_seeds is not None and seeds is not None and seeds.gain is not None:
        gain = seeds.gain.mean
    if not _shown(over_seeds, test.headroom) or gain > lead / 2:
        return None
    share = fmt.percent(max(0.0, gain / lead), 0)
    written = fmt.gain(lead, found.metric).lstrip("+")
    return Cause(
        rule="lead_not_taken",
        short=f"the student takes {share} of the teacher's lead of {written}",
        evidence=f"The teacher is better than the {found.baseline} by {written}, of which the "
        f"student takes {share}, although it is close to its teacher.",
        advice="Change the objective: the weight of the labels, the temperature, or a method on "
        "features (`limbeck list methods`); and see whether the rows on which student and teacher "
        "differ are those that the teacher gains.",
    )


def _longer(found: Figures) -> Cause | None:
    rising = [one for one in found.curves if one.trend == "rising"]
    if not rising:
        return None
    who = fmt.listing([_named(found, one.role) for one in rising])
    return Cause(
        rule="still_rising",
        short=f"the validation score of the {who} was still improving at the end",
        evidence=f"In the last quarter of the epochs the validation score of the {who} was still "
        "improving.",
        advice="Train longer.",
    )


def _shorter(found: Figures) -> Cause | None:
    peaked = [one for one in found.curves if one.trend == "past its best"]
    if not peaked:
        return None
    parts = [
        f"of the {_named(found, one.role)} in epoch {one.best_epoch:g} of {one.epochs}"
        for one in peaked
    ]
    return Cause(
        rule="past_best",
        short=f"the validation score was best {fmt.listing(parts)}",
        evidence=f"The validation score was best {fmt.listing(parts)}, and clearly worse at the "
        "end: overfitting.",
        advice="Train for fewer epochs, or add augmentation and weight decay; `keep: best` keeps "
        "the best epoch.",
    )


def _named(found: Figures, role: Role) -> str:
    return found.baseline if role == "baseline" else role


def _seeds(found: Figures) -> Cause | None:
    gain = None if found.seeds is None else found.seeds.gain
    if gain is None:
        return None
    if gain.interval is None:
        return Cause(
            rule="one_seed",
            short="one seed shows no spread",
            evidence="One seed: how much the gain varies between trainings is unknown.",
            advice="Set `seeds: [0, 1, 2, 3, 4]`.",
        )
    if not gain.interval.low <= 0 <= gain.interval.high:
        return None
    needed = seeds_needed(gain)
    size = fmt.gain_estimate(gain.mean, gain.interval, found.metric)
    more = f"about {needed} seeds would show a difference of this size" if needed else FEW
    return Cause(
        rule="few_seeds",
        short=f"the interval over {len(gain.values)} seeds includes zero",
        evidence=f"The interval over {len(gain.values)} seeds includes zero: {size}.",
        advice=f"{more[0].upper()}{more[1:]}.",
    )


FEW = f"more than {MOST_SEEDS} seeds would be needed: the difference is too small to matter"


def seeds_needed(gain: Summary) -> int | None:
    """Return the number of seeds whose Student's interval would exclude zero, at this spread.

    None if it is more than 100.

    Example:
        >>> from limbeck.evaluate.intervals import summarize
        >>> seeds_needed(summarize([0.0, 0.02])), seeds_needed(summarize([-1.0, 1.001]))
        (11, None)
    """
    count = len(gain.values)
    deviation = (sum((one - gain.mean) ** 2 for one in gain.values) / (count - 1)) ** 0.5
    for seeds in range(count + 1, MOST_SEEDS + 1):
        if stats.t.ppf(0.975, seeds - 1) * deviation / seeds**0.5 < abs(gain.mean):
            return seeds
    return None


RULES: tuple[Callable[[Figures], Cause | None], ...] = (
    _weak_teacher,
    _taken,
    _fit,
    _not_taken,
    _one_hot,
    _silent_terms,
    _longer,
    _shorter,
    _seeds,
)
