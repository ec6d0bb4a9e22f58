"""Calibration of student and teacher, as exported and after temperature scaling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.core.samples import select_samples
from limbeck.evaluate.bootstrap import PairedEstimate, Resamples, mean
from limbeck.evaluate.calibration.correction import (
    Temperature,
    corrected_errors,
    fit_temperature,
    scaled,
)
from limbeck.evaluate.calibration.metrics import Reliability, gaps, reliability
from limbeck.evaluate.comparison import MetricComparison, Unit, compare
from limbeck.evaluate.context import Workload
from limbeck.evaluate.metrics import brier, log_probabilities, losses
from limbeck.export.predictor import predict

if TYPE_CHECKING:
    from limbeck.evaluate.context import EvaluatedModel, EvaluationContext
    from limbeck.export.predictor import Predictions
    from limbeck.tasks import Batch


Values = NDArray[np.float64]
Labels = NDArray[np.int64]
Metric = Callable[[Values, Labels], Values]
FITTED_ON = 1000
"""The most validation samples that a temperature is fitted on."""


class CalibrationSummary(Result):
    """The calibration of one model, as exported and after scaling, and its temperature."""

    shipped: Reliability
    scaled: Reliability
    temperature: Temperature


class Calibration(Result):
    """The calibration of student and teacher.

    Attributes:
        comparisons: Calibration error, Brier score and likelihood, as exported and scaled.
        student: The student's metrics.
        teacher: The teacher's, if there is one.
        notes: Reasons for what could not be computed.
    """

    comparisons: tuple[MetricComparison, ...]
    student: CalibrationSummary
    teacher: CalibrationSummary | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Model:
    """One model's log-probabilities of the test samples, as exported and scaled."""

    name: str
    shipped: Values
    scaled: Values
    temperature: Temperature


def evaluate(
    context: EvaluationContext, *, bins: int = 15, n_resamples: int = 1000, margin: float = 0.01
) -> Calibration:
    """Evaluate the calibration of both models, before and after temperature scaling.

    The temperature of each is fitted on a thousand validation samples at most, at equal distances.

    Args:
        context: The two models and the samples.
        bins: Number of bins.
        n_resamples: Number of bootstrap resamples.
        margin: The non-inferiority margin of a calibration error, a Brier score, and of a
            likelihood in nats.
    """
    labels = context.student_predictions.labels
    models = [_model(context.student, context.student_predictions, context)]
    if context.teacher is not None and context.teacher_predictions is not None:
        models.append(_model(context.teacher, context.teacher_predictions, context))
    resamples = Resamples(len(labels), n_resamples=n_resamples, seed=context.seed)
    comparisons = [
        compare(name, unit=unit, direction="lower", **dict(estimates), margin=margin, method=method)
        for name, unit, estimates, method in (
            *_estimates(models, labels, resamples, bins, is_scaled=False),
            *_estimates(models, labels, resamples, bins, is_scaled=True),
        )
    ]
    student, *teacher = (
        CalibrationSummary(
            shipped=reliability(one.shipped, labels, bins=bins),
            scaled=reliability(one.scaled, labels, bins=bins),
            temperature=one.temperature,
        )
        for one in models
    )
    return Calibration(
        comparisons=tuple(comparisons),
        student=student,
        teacher=teacher[0] if teacher else None,
        notes=tuple(
            f"No temperature was fitted to the {one.name}: the likelihood of the validation "
            "samples has no maximum, since all predictions are correct or none is better than "
            "chance."
            for one in models
            if not one.temperature.fitted
        ),
    )


def _model(model: EvaluatedModel, test: Predictions, context: EvaluationContext) -> _Model:
    temperature = fit_temperature(predict(model.predictor, _fitted_on(context)))
    log_p = log_probabilities(test.logits)
    return _Model(model.name, log_p, scaled(log_p, temperature), temperature)


def _fitted_on(context: EvaluationContext) -> Iterator[Batch]:
    """Yield validation samples at equal distances: a temperature, one number, needs no more."""
    step, start = -(-context.validation_size // FITTED_ON), 0
    for batch in context.validation():
        count = len(batch["labels"])
        rows = np.arange(-start % step, count, step)
        start += count
        if len(rows):
            yield batch if step == 1 else select_samples(batch, context.axes, rows)


def _estimates(
    models: Sequence[_Model], labels: Labels, resamples: Resamples, bins: int, *, is_scaled: bool
) -> Iterator[tuple[str, Unit, PairedEstimate, str]]:
    """Yield the name, unit, estimates and method of each metric, as exported or scaled."""
    log_p = [one.scaled if is_scaled else one.shipped for one in models]
    after, scaling = "", ""
    if is_scaled:
        after = " after temperature scaling"
        scaling = (
            " Logits are divided by each model's temperature, fitted on "
            f"{FITTED_ON:,} validation samples at most."
        )

    def paired(metric: Metric) -> PairedEstimate:
        means = [partial(mean, values=metric(one, labels)) for one in log_p]
        return resamples.paired(means[0], means[1] if len(means) > 1 else None)

    yield (
        f"Calibration error{after}",
        "share",
        corrected_errors(resamples, *[gaps(one, labels, bins=bins) for one in log_p]),
        f"Expected calibration error over {bins} bins of equal width, corrected for its bias on "
        f"{len(labels)} samples.{scaling}",
    )
    yield (
        f"Brier score{after}",
        "number",
        paired(brier),
        f"Mean squared distance of the probabilities from the one-hot label, in [0, 2].{scaling}",
    )
    yield (
        f"Negative log-likelihood{after}",
        "nats",
        paired(losses),
        f"Mean negative log-probability of the label, in float64.{scaling}",
    )


def workload(context: EvaluationContext, **settings: object) -> Workload:
    """Compute the workload: the validation samples, and the test samples unless they are known."""
    size = context.validation_size
    fitted_on = -(-size // -(-size // FITTED_ON)) if size else 0
    return Workload(predictions=context.samples_to_predict + fitted_on)
