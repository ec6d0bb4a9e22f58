"""Uncertainty: failure detection, selective prediction, deferral, OOD detection."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import PairedEstimate, Resamples, share
from limbeck.evaluate.comparison import MetricComparison, compare
from limbeck.evaluate.context import Batch, Batches, EvaluatedModel, EvaluationContext, Workload
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
from limbeck.export.predictor import predict

DRAWS_SAMPLES = True
COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Target coverages of the deferral table."""

BATCH = 250
"""Batch size of OOD images."""

HEADLINE = "maximum softmax probability"
"""The OOD score of the metric comparison; the table has all scores."""


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
    labels = context.student_predictions.labels
    resamples = Resamples(len(labels), n_resamples=n_resamples, seed=context.seed)
    student = SelectivePredictor.of(context.student_predictions)
    validation = SelectivePredictor.of(predict(context.student.predictor, context.validation()))
    teacher = to_match = None
    if context.teacher is not None and context.teacher_predictions is not None:
        teacher = SelectivePredictor.of(context.teacher_predictions)
        reference = SelectivePredictor.of(predict(context.teacher.predictor, context.validation()))
        threshold = threshold_to_match(validation.confidence, validation.right, reference.right)
        achieved = float((validation.confidence >= threshold).mean())
        to_match = defer(student, teacher, coverage=achieved, threshold=threshold)
    deferral, *deferrals = (
        defer(student, teacher, coverage=c, threshold=threshold_for(validation.confidence, c))
        for c in (coverage, *COVERAGES)
    )
    auroc = resamples.paired(
        student.failure_detection_auroc, teacher.failure_detection_auroc if teacher else None
    )
    aurc = resamples.paired(student.aurc, teacher.aurc if teacher else None)
    ood = tuple(_ood(context, ood_samples, n_resamples=n_resamples))
    return Uncertainty(
        comparisons=tuple(_comparisons(auroc, aurc, deferral, teacher, ood, margin)),
        intervals=interval_overlaps(student.log_p, teacher.log_p, labels, resamples=resamples)
        if teacher
        else (),
        student=student.summary(aurc.student, resamples=resamples),
        teacher=teacher.summary(aurc.teacher, resamples=resamples)
        if teacher and aurc.teacher
        else None,
        deferrals=tuple(deferrals),
        to_match=to_match,
        ood=ood,
        notes=tuple(_notes(auroc, teacher, ood)),
    )


def _ood(
    context: EvaluationContext, ood_samples: Batches | None, *, n_resamples: int
) -> Iterator[OodDetection]:
    rows = context.sample["row"]
    tested = [context.student_predictions, context.teacher_predictions]
    sets = _generated(context) if ood_samples is None else [("user-provided samples", ood_samples)]
    for name, batches in sets:
        student, *teacher = (
            Logits(predictions.logits[rows], _logits(model, batches, context))
            for (_, model), predictions in zip(context.models(), tested, strict=False)
            if predictions is not None
        )
        yield from ood_detection(
            student,
            teacher[0] if teacher else None,
            samples=name,
            n_resamples=n_resamples,
            seed=context.seed,
        )


def _generated(context: EvaluationContext) -> Iterator[tuple[str, Batches]]:
    """Generate OOD samples from the context's images, if the samples are images."""
    inputs = {name: values for name, values in context.sample.items() if name != "row"}
    image = next((name for name, values in inputs.items() if values.ndim == 4), None)
    if context.normalization is None or image is None:
        return
    for name, generated in ood_images(inputs[image], context.normalization, seed=context.seed):
        yield name, partial(_batches, inputs | {image: generated})


def _batches(inputs: Mapping[str, NDArray[Any]]) -> Iterator[Batch]:
    for first in range(0, len(inputs["labels"]), BATCH):
        yield {name: values[first : first + BATCH] for name, values in inputs.items()}


def _logits(
    model: EvaluatedModel, batches: Batches, context: EvaluationContext
) -> NDArray[np.float32]:
    """Compute the logits of OOD samples, at most `max_samples` of them."""
    labelled = ({**batch, "labels": np.zeros(_size(batch))} for batch in batches())
    logits = predict(model.predictor, labelled).logits
    random = np.random.default_rng(context.seed)
    return logits[np.sort(random.permutation(len(logits))[: context.max_samples])]


def _size(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _comparisons(
    auroc: PairedEstimate,
    aurc: PairedEstimate,
    deferral: Deferral,
    teacher: SelectivePredictor | None,
    ood: Sequence[OodDetection],
    margin: float,
) -> Iterator[MetricComparison]:
    compare_shares = partial(compare, unit="share", margin=margin)
    if not math.isnan(auroc.student.value):
        # Without errors of the teacher there is no reference.
        undefined = auroc.teacher is None or math.isnan(auroc.teacher.value)
        yield compare_shares(
            "Failure-detection AUROC",
            direction="higher",
            method="How often a wrong prediction has a higher entropy than a correct one (AUROC); "
            "50 % is chance.",
            **dict(PairedEstimate(student=auroc.student) if undefined else auroc),
        )
    yield compare_shares(
        "AURC",
        direction="lower",
        method="Area under the risk-coverage curve: the error rate of the predictions of highest "
        "softmax probability, averaged over all coverages.",
        **dict(aurc),
    )
    if teacher is not None and deferral.with_teacher is not None:
        yield compare_shares(
            f"Accuracy with {1 - deferral.coverage:.0%} deferred to the teacher",
            direction="higher",
            student=deferral.with_teacher,
            teacher=share(teacher.right),
            difference=deferral.against_teacher,
            method="The student predicts samples of a confidence of at least "
            f"{deferral.threshold:.3f}, a threshold chosen on validation samples; its coverage of "
            f"the test samples is {deferral.answered.value:.1%}.",
        )
    for one in ood:
        if one.score == HEADLINE:
            in_distribution, out_of_distribution = one.count
            yield compare_shares(
                f"OOD detection AUROC: {one.samples}",
                direction="higher",
                method=f"How often one of {in_distribution} test samples has a higher {HEADLINE} "
                f"than one of {out_of_distribution} OOD samples (AUROC); 50 % is chance.",
                **dict(one.auroc),
            )


def _notes(
    auroc: PairedEstimate, teacher: SelectivePredictor | None, ood: Sequence[OodDetection]
) -> Iterator[str]:
    if teacher is None:
        yield "There is no teacher: no deferral to it is measured."
    for name, estimate in (("student", auroc.student), ("teacher", auroc.teacher)):
        if estimate is not None and math.isnan(estimate.value):
            yield (
                f"The {name}'s predictions are all correct or all wrong: failure detection is "
                "undefined."
            )
    if not ood:
        yield (
            "OOD detection is not measured: OOD samples are generated from images only, and none "
            "were provided."
        )


def workload(
    context: EvaluationContext, *, ood_samples: Batches | None, **settings: object
) -> Workload:
    """Compute the workload: validation samples, OOD samples, and test samples not yet predicted."""
    generated = 0 if context.normalization is None else 3 * len(context.sample["labels"])
    ood = generated if ood_samples is None else sum(map(_size, ood_samples()))
    return Workload(predictions=context.samples_to_predict + context.validation_size + ood)
