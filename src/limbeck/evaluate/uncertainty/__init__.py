"""Uncertainty: failure detection, selective prediction, deferral, OOD detection."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import PairedEstimate, Resamples, share
from limbeck.evaluate.comparison import MetricComparison, compare
from limbeck.evaluate.context import Batch, Batches, EvaluatedModel, EvaluationContext, Workload
from limbeck.evaluate.metrics import log_probabilities
from limbeck.evaluate.uncertainty.interval_overlap import IntervalOverlap, interval_overlaps
from limbeck.evaluate.uncertainty.ood import Logits, OodDetection, ood_detection, ood_images
from limbeck.evaluate.uncertainty.selective_prediction import (
    Deferral,
    SelectivePrediction,
    SelectivePredictor,
    defer,
    threshold_for,
    threshold_to_match,
)
from limbeck.export.predictor import Predictions, predict

COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Target coverages of the deferral table."""

BATCH = 250
"""Batch size of OOD images."""

HEADLINE = "largest probability"
"""The score of the metric comparison; the table has all scores."""


class Uncertainty(Result):
    """The uncertainty metrics of student and teacher.

    Attributes:
        comparisons: Failure-detection AUROC, AURC, deferral, OOD detection.
        intervals: The overlap of both models' confidence intervals.
        student: The student's uncertainty metrics.
        teacher: The teacher's.
        deferrals: Selective prediction if the student defers its least confident samples.
        to_match: The smallest deferral to the teacher that matches its accuracy on validation
            samples, measured on test samples.
        ood: OOD detection metrics.
        notes: Reasons for what could not be computed.
    """

    comparisons: tuple[MetricComparison, ...]
    intervals: tuple[IntervalOverlap, ...]
    student: SelectivePrediction
    teacher: SelectivePrediction | None
    deferrals: tuple[Deferral, ...]
    to_match: Deferral | None
    ood: tuple[OodDetection, ...]
    notes: tuple[str, ...]


def evaluate(
    context: EvaluationContext,
    *,
    ood_samples: Batches | None = None,
    coverage: float = 0.8,
    n_resamples: int = 1000,
    margin: float = 0.01,
) -> Uncertainty:
    """Evaluate failure detection, selective prediction and OOD detection.

    Args:
        context: The two models and the samples.
        ood_samples: Iterates over OOD samples, which need no label. By default they are generated
            from the context's images: noise, shuffled pixels, negatives.
        coverage: The target coverage of the metric comparison of deferral.
        n_resamples: Number of bootstrap resamples.
        margin: The non-inferiority margin of accuracy, of AUROC, and of risk.
    """
    student = _doubter(context.student_predictions)
    teacher = None if context.teacher_predictions is None else _doubter(context.teacher_predictions)
    labels = context.student_predictions.labels
    resamples = Resamples(len(labels), n_resamples=n_resamples, seed=context.seed)
    told = resamples.paired(
        student.failure_detection_auroc,
        None if teacher is None else teacher.failure_detection_auroc,
    )
    risk = resamples.paired(student.aurc, None if teacher is None else teacher.aurc)
    validation = _on_validation(context.student, context)
    handed, *deferrals = _deferrals((coverage, *COVERAGES), validation, student, teacher)
    apart = tuple(_ood(context, ood_samples, draws=n_resamples))
    return Uncertainty(
        comparisons=(
            *_errors_told(told, margin),
            _risk(risk, margin),
            *_handed_on(handed, teacher, margin),
            *(_told_apart(one, margin) for one in apart if one.score == HEADLINE),
        ),
        intervals=()
        if teacher is None
        else interval_overlaps(student.log_p, teacher.log_p, labels, resamples=resamples),
        student=student.summary(risk.student, resamples=resamples),
        teacher=None
        if teacher is None or risk.teacher is None
        else teacher.summary(risk.teacher, resamples=resamples),
        deferrals=tuple(deferrals),
        to_match=_to_match(context, validation, student, teacher),
        ood=apart,
        notes=tuple(_notes(told, teacher, apart)),
    )


def _doubter(answered: Predictions) -> SelectivePredictor:
    return SelectivePredictor.of(log_probabilities(answered.logits), answered.labels)


def _on_validation(side: EvaluatedModel, context: EvaluationContext) -> SelectivePredictor:
    return _doubter(predict(side.predictor, context.validation()))


def _deferrals(
    coverages: tuple[float, ...],
    validation: SelectivePredictor,
    student: SelectivePredictor,
    teacher: SelectivePredictor | None,
) -> list[Deferral]:
    return [
        defer(
            student.confidence,
            student.right,
            None if teacher is None else teacher.right,
            coverage=coverage,
            threshold=threshold_for(validation.confidence, coverage),
        )
        for coverage in coverages
    ]


def _to_match(
    context: EvaluationContext,
    validation: SelectivePredictor,
    student: SelectivePredictor,
    teacher: SelectivePredictor | None,
) -> Deferral | None:
    """Compute the smallest deferral that matches the teacher's accuracy on validation samples."""
    if context.teacher is None or teacher is None:
        return None
    master = _on_validation(context.teacher, context)
    threshold = threshold_to_match(validation.confidence, validation.right, master.right)
    return defer(
        student.confidence,
        student.right,
        teacher.right,
        coverage=float((validation.confidence >= threshold).mean()),
        threshold=threshold,
    )


def _ood(
    context: EvaluationContext, ood_samples: Batches | None, *, draws: int
) -> Iterator[OodDetection]:
    rows = context.sample["row"]
    inside = context.student_predictions.logits[rows]
    taught = (
        None if context.teacher_predictions is None else context.teacher_predictions.logits[rows]
    )
    sets = _made(context) if ood_samples is None else [("the samples given", ood_samples)]
    for name, batches in sets:
        student = Logits(inside, _logits(context.student, batches, context))
        teacher = None
        if context.teacher is not None and taught is not None:
            teacher = Logits(taught, _logits(context.teacher, batches, context))
        yield from ood_detection(
            student, teacher, samples=name, n_resamples=draws, seed=context.seed
        )


def _made(context: EvaluationContext) -> Iterator[tuple[str, Batches]]:
    """Generate OOD samples from the context's images, if the samples are images."""
    inputs = {name: values for name, values in context.sample.items() if name != "row"}
    pictures = next((name for name, values in inputs.items() if values.ndim == 4), None)
    if context.normalization is None or pictures is None:
        return
    for name, made in ood_images(inputs[pictures], context.normalization, seed=context.seed):
        yield name, partial(_batches, inputs | {pictures: made})


def _batches(inputs: Mapping[str, NDArray[Any]]) -> Iterator[Batch]:
    for first in range(0, len(inputs["labels"]), BATCH):
        yield {name: values[first : first + BATCH] for name, values in inputs.items()}


def _logits(
    side: EvaluatedModel, batches: Batches, context: EvaluationContext
) -> NDArray[np.float32]:
    """Compute the logits of OOD samples, at most `limit` of them."""
    labelled = ({**batch, "labels": np.zeros(_size(batch))} for batch in batches())
    logits = predict(side.predictor, labelled).logits
    random = np.random.default_rng(context.seed)
    return logits[np.sort(random.permutation(len(logits))[: context.max_samples])]


def _size(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _errors_told(told: PairedEstimate, margin: float) -> Iterator[MetricComparison]:
    if math.isnan(told.student.value):
        return
    # Without errors of the teacher there is no reference.
    alone = told.teacher is None or math.isnan(told.teacher.value)
    yield compare(
        "Failure-detection AUROC",
        unit="share",
        direction="higher",
        student=told.student,
        teacher=None if alone else told.teacher,
        difference=None if alone else told.difference,
        margin=margin,
        method="How often a wrong answer has more entropy than a right one (AUROC); 50 % is "
        "chance.",
    )


def _risk(risk: PairedEstimate, margin: float) -> MetricComparison:
    return compare(
        "AURC",
        unit="share",
        direction="lower",
        **dict(risk),
        margin=margin,
        method="Error rate of the most confident predictions by largest probability, averaged over "
        "how many are given (AURC).",
    )


def _handed_on(
    handed: Deferral, teacher: SelectivePredictor | None, margin: float
) -> Iterator[MetricComparison]:
    if teacher is None or handed.with_teacher is None:
        return
    yield compare(
        f"Accuracy with the least sure {1 - handed.coverage:.0%} left to the teacher",
        unit="share",
        direction="higher",
        student=handed.with_teacher,
        teacher=share(teacher.right),
        difference=handed.against_teacher,
        margin=margin,
        method=f"The student answers from a confidence of {handed.threshold:.3f} on, a threshold "
        f"chosen on validation samples; that was {handed.answered.value:.1%} of the test samples.",
    )


def _told_apart(one: OodDetection, margin: float) -> MetricComparison:
    inside, beyond = one.count
    return compare(
        f"OOD detection AUROC: {one.samples}",
        unit="share",
        direction="higher",
        **dict(one.auroc),
        margin=margin,
        method=f"How often one of {inside} test samples has a larger probability at the top than "
        f"one of {beyond} from outside (AUROC); 50 % is chance.",
    )


def _notes(
    told: PairedEstimate, teacher: SelectivePredictor | None, apart: tuple[OodDetection, ...]
) -> Iterator[str]:
    if teacher is None:
        yield "There is no teacher: nothing can be left to it."
    if math.isnan(told.student.value):
        yield "The student's answers are all right or all wrong: errors cannot be told from them."
    if told.teacher is not None and math.isnan(told.teacher.value):
        yield "The teacher's answers are all right or all wrong: errors cannot be told from them."
    if not apart:
        yield (
            "Samples from outside are made of pictures only; none were given, so how those are "
            "told apart is not known."
        )


def workload(
    context: EvaluationContext, *, ood_samples: Batches | None, **settings: object
) -> Workload:
    """Compute the workload: validation samples, OOD samples, and test samples not known."""
    made = 0 if context.normalization is None else 3 * len(context.sample["labels"])
    given = made if ood_samples is None else sum(map(_size, ood_samples()))
    return Workload(predictions=context.to_answer + context.validation_size + given)
