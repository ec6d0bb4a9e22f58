"""Diagnosis of a distillation: why it gains over the label-only baseline, or does not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, cast

import numpy as np
from pydantic import Field

from limbeck.core.measurement import Metric
from limbeck.evaluate.bootstrap import Resamples, paired_difference
from limbeck.evaluate.comparison import Estimate, MetricComparison
from limbeck.evaluate.context import Role, Workload
from limbeck.evaluate.diagnosis.causes import Cause, causes, outcome
from limbeck.evaluate.diagnosis.curves import learning_curves
from limbeck.evaluate.diagnosis.figures import (
    Figures,
    SeedScores,
    Split,
    SplitScores,
    TargetStatistics,
    TeacherAgreement,
    TermShare,
)
from limbeck.evaluate.diagnosis.predictions import (
    SplitPredictions,
    calibration_error,
    predict_split,
    relative_error,
)
from limbeck.evaluate.intervals import Summary, summarize
from limbeck.evaluate.metrics import score_value

if TYPE_CHECKING:
    from limbeck.evaluate.context import Distillation, EvaluationContext, TermGradientNorm
    from limbeck.tasks import Score

ANY_TASK = True
OF_ALL_SEEDS = True

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
MOST = 1000
"""The most validation and test samples that are predicted, each spread evenly over its split."""


class Diagnosis(Figures):
    """The figures of a distillation, and what follows from them.

    Attributes:
        causes: The rules that fired, the most probable cause first.
        summary: The outcome and the first cause, in one line.
        comparisons: None.
        notes: Reasons for what could not be computed.
    """

    causes: tuple[Cause, ...]
    summary: str
    comparisons: tuple[MetricComparison, ...] = ()
    notes: tuple[str, ...] = ()


def evaluate(
    context: EvaluationContext,
    *,
    rows: Annotated[int, Field(ge=10, le=1_000_000)] = 2000,
    n_resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000,
) -> Diagnosis:
    """Determine why a distillation gains over its label-only baseline, or does not.

    Teacher, student and baseline are compared on training, validation and test samples, as the
    `distill` stage exported them, before any compression.

    Args:
        context: The student, with its distillation.
        rows: The largest number of training rows, spread evenly over them.
        n_resamples: Number of bootstrap resamples.
    """
    found = context.distillation
    if found is None:
        reason = "The student was not distilled: there is nothing to diagnose."
        none = Metric(name="", title="")
        return Diagnosis(metric=none, causes=(), summary=reason, notes=(reason,))
    splits = {
        split: predict_split(found, split, rows if split == "train" else MOST)
        for split in SPLITS
        if found.sizes.get(split)
    }
    gradients = found.gradients()
    figures = Figures(
        metric=found.metric,
        baseline=found.baseline,
        splits=tuple(
            _scores(name, one, found, Resamples(one.samples, n_resamples=n_resamples))
            for name, one in splits.items()
        ),
        seeds=_seeds(found),
        temperature=found.temperature,
        largest_entropy=_largest_entropy(found),
        targets=tuple(_targets(name, one) for name, one in splits.items())
        if "teacher" in found.models
        else (),
        agreements=tuple(
            agreement for name, one in splits.items() for agreement in _agreements(name, one, found)
        ),
        terms=_term_shares(gradients.norms),
        curves=tuple(learning_curves(found.curves, higher_is_better=found.metric.higher_is_better)),
    )
    fired = causes(figures)
    return Diagnosis(
        **dict(figures),
        causes=fired,
        summary=outcome(figures, fired),
        notes=(*found.notes, *gradients.notes, *_notes(found, figures)),
    )


def workload(context: EvaluationContext, **settings: object) -> Workload:
    """Compute the workload: samples of all splits, by the models of the distillation."""
    found = context.distillation
    if found is None:
        return Workload()
    rows = cast("int", settings["rows"])
    most = {"train": rows, "validation": MOST, "test": MOST}
    return Workload(
        predictions=sum(min(count, most[split]) for split, count in found.sizes.items())
    )


def _scores(
    split: Split, one: SplitPredictions, found: Distillation, resamples: Resamples
) -> SplitScores:
    """Compute the scores of a split; with intervals where no model was trained on it."""
    score = found.task.scores[0]
    if split == "train":
        plain = {role: next(iter(one.values().values())) for role, one in one.scores.items()}
        estimates = {role: Estimate(value=value) for role, value in plain.items()}
    else:
        measured = {role: score_value(table, score) for role, table in one.scores.items()}
        estimates = {
            role: Estimate(value=value.value, interval=value.interval)
            for role, value in measured.items()
        }
    known = {role: value for role, value in estimates.items() if math.isfinite(value.value)}
    if split == "train":
        return SplitScores(split=split, samples=one.samples, scores=known)
    return SplitScores(
        split=split,
        samples=one.samples,
        scores=known,
        headroom=_difference(one, score, "teacher", resamples),
        gain=_difference(one, score, "student", resamples),
    )


def _difference(
    one: SplitPredictions, score: Score, role: Role, resamples: Resamples
) -> Estimate | None:
    """Estimate by how much a model is better than the baseline on the same samples."""
    if not {role, "baseline"} <= one.scores.keys():
        return None
    own, other = (one.scores[name].parts(score) for name in (role, "baseline"))
    hits = [np.asarray(part) for part in (own, other) if isinstance(part, np.ndarray)]
    if len(hits) == 2 and all(
        part.shape[1:] == (2,) and np.isin(part[:, 0], (0, 1)).all() and (part[:, 1] == 1).all()
        for part in hits
    ):
        estimate = paired_difference(hits[0][:, 0], hits[1][:, 0])
    else:
        paired = resamples.paired(partial(score.value, own), partial(score.value, other))
        if paired.difference is None or not np.isfinite(paired.difference.ends).all():
            return None
        estimate = paired.difference
    return estimate if score.metric.higher_is_better else _negative(estimate)


def _negative(estimate: Estimate) -> Estimate:
    interval = estimate.interval
    if interval is not None:
        ends = {"low": -interval.high, "high": -interval.low}
        interval = interval.model_copy(update=ends)
    return Estimate(value=-estimate.value, interval=interval)


def _seeds(found: Distillation) -> SeedScores | None:
    if not found.scores:
        return None
    bounds = found.metric.bounds

    def against_baseline(role: Role) -> Summary | None:
        if not {role, "baseline"} <= found.scores.keys():
            return None
        pairs = zip(found.scores[role], found.scores["baseline"], strict=True)
        return summarize([found.metric.gain(own, over=alone) for own, alone in pairs])

    return SeedScores(
        numbers=found.seeds,
        scores={role: summarize(values, bounds=bounds) for role, values in found.scores.items()},
        headroom=against_baseline("teacher"),
        gain=against_baseline("student"),
    )


def _largest_entropy(found: Distillation) -> float | None:
    kind = next(iter(found.task.kinds.values()))
    classes = {"categorical": len(found.task.classes), "binary": 2}.get(kind, 0)
    return math.log(classes) if classes > 1 else None


def _targets(split: Split, one: SplitPredictions) -> TargetStatistics:
    return TargetStatistics(
        split=split,
        entropy=one.means["teacher/entropy"],
        softened_entropy=one.means["teacher/softened entropy"],
        confidence=one.means["teacher/confidence"],
        accuracy=one.means["teacher/accuracy"],
        ece=calibration_error(one.means, "teacher"),
        error=relative_error(one.means, "teacher/squared errors"),
    )


def _agreements(
    split: Split, one: SplitPredictions, found: Distillation
) -> Iterator[TeacherAgreement]:
    """Yield the agreements with the teacher: by the task's own score where it is a share."""
    if "teacher" not in found.models:
        return
    for role in found.models:
        if role == "teacher":
            continue
        name, agreement = "Agreement", one.means[f"{role}/agreement"]
        if role in one.agreements:
            table = one.agreements[role]
            metric = table.scores[0].metric
            value = next(iter(table.values().values()))
            if metric.unit == "share" and metric.higher_is_better and math.isfinite(value):
                name, agreement = metric.title, value
        yield TeacherAgreement(
            split=split,
            role=role,
            name=name,
            agreement=agreement,
            kl=one.means[f"{role}/kl"],
            difference=relative_error(one.means, f"{role}/squared differences"),
        )


def _term_shares(norms: Sequence[TermGradientNorm]) -> tuple[TermShare, ...]:
    """Average each term's share of the summed norms over the batches."""
    names = list(dict.fromkeys(one.term for one in norms))
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for at in ("start", "end"):
        sums = {
            name: math.fsum(one.norm for one in norms if (one.term, one.at) == (name, at))
            for name in names
        }
        total = math.fsum(sums.values())
        if total > 0 and math.isfinite(total):
            for name in names:
                found[name][at] = sums[name] / total
    return tuple(
        TermShare(term=name, start=one.get("start"), end=one.get("end"))
        for name, one in found.items()
    )


def _notes(found: Distillation, figures: Figures) -> Iterator[str]:
    if "teacher" not in found.models:
        yield (
            "There is no fixed teacher: headroom, targets and agreement with a teacher do not "
            "apply."
        )
    elif not any(one.entropy is not None or one.error is not None for one in figures.targets):
        yield "The statistics of the teacher's targets do not apply to this task's outputs."
    if "baseline" not in found.models:
        yield "No label-only baseline was trained (`baseline: false`): the gain is unknown."
    if not figures.curves:
        yield "No validation curve was recorded."
