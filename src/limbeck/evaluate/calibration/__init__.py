"""Calibration of student and teacher, as exported and after temperature scaling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import PairedEstimate, Resamples, mean
from limbeck.evaluate.calibration.correction import (
    Temperature,
    corrected_errors,
    fit_temperature,
    scaled,
)
from limbeck.evaluate.calibration.metrics import Reliability, gaps, reliability
from limbeck.evaluate.comparison import MetricComparison, compare
from limbeck.evaluate.context import Workload
from limbeck.evaluate.metrics import brier, log_probabilities, losses
from limbeck.export.predictor import predict

if TYPE_CHECKING:
    from limbeck.evaluate.context import EvaluatedModel, EvaluationContext
    from limbeck.export.predictor import Predictions


Values = NDArray[np.float64]
Labels = NDArray[np.int64]


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

    The temperature of each is fitted on the validation samples.

    Args:
        context: The two models and the samples.
        bins: Number of bins.
        n_resamples: Number of bootstrap resamples.
        margin: The non-inferiority margin of a calibration error, a Brier score, and of a
            likelihood in nats.
    """
    labels = context.student_predictions.labels
    student = _model(context.student, context.student_predictions, context)
    teacher = None
    if context.teacher is not None and context.teacher_predictions is not None:
        teacher = _model(context.teacher, context.teacher_predictions, context)
    lines = _Lines(
        labels, Resamples(len(labels), n_resamples=n_resamples, seed=context.seed), bins, margin
    )
    return Calibration(
        comparisons=(
            *lines.of(student.shipped, None if teacher is None else teacher.shipped),
            *lines.of(student.scaled, None if teacher is None else teacher.scaled, scaled=True),
        ),
        student=_calibration_summary(student, labels, bins),
        teacher=None if teacher is None else _calibration_summary(teacher, labels, bins),
        notes=_notes([student] if teacher is None else [student, teacher]),
    )


def _model(side: EvaluatedModel, test: Predictions, context: EvaluationContext) -> _Model:
    temperature = fit_temperature(predict(side.predictor, context.validation()))
    log_p = log_probabilities(test.logits)
    return _Model(side.name, log_p, scaled(log_p, temperature), temperature)


def _calibration_summary(model: _Model, labels: Labels, bins: int) -> CalibrationSummary:
    return CalibrationSummary(
        shipped=reliability(model.shipped, labels, bins=bins),
        scaled=reliability(model.scaled, labels, bins=bins),
        temperature=model.temperature,
    )


@dataclass(frozen=True)
class _Lines:
    """The settings common to all metric comparisons."""

    labels: Labels
    resamples: Resamples
    bins: int
    margin: float

    def of(
        self, student: Values, teacher: Values | None, *, scaled: bool = False
    ) -> tuple[MetricComparison, MetricComparison, MetricComparison]:
        """Compute the three comparisons from log-probabilities, `[samples, classes]` per model."""
        after = " after temperature scaling" if scaled else ""
        way = (
            " The logits of each model are divided by the temperature that suits the validation "
            "samples best."
            if scaled
            else ""
        )
        error = corrected_errors(
            self.resamples,
            gaps(student, self.labels, bins=self.bins),
            None if teacher is None else gaps(teacher, self.labels, bins=self.bins),
        )
        return (
            compare(
                f"Calibration error{after}",
                unit="share",
                direction="lower",
                **dict(error),
                margin=self.margin,
                method=f"Expected calibration error over {self.bins} bins of equal width, less "
                f"what chance adds to it on {len(self.labels)} samples.{way}",
            ),
            compare(
                f"Brier score{after}",
                unit="number",
                direction="lower",
                **dict(self._mean(brier, student, teacher)),
                margin=self.margin,
                method="Mean squared distance of the probabilities from the right answer, "
                f"in [0, 2].{way}",
            ),
            compare(
                f"Negative log-likelihood{after}",
                unit="nats",
                direction="lower",
                **dict(self._mean(losses, student, teacher)),
                margin=self.margin,
                method="Mean negative logarithm of the probability of the right answer, in float64."
                f"{way}",
            ),
        )

    def _mean(
        self, figure: Callable[[Values, Labels], Values], student: Values, teacher: Values | None
    ) -> PairedEstimate:
        one = figure(student, self.labels)
        if teacher is None:
            return self.resamples.paired(lambda counts: mean(counts, one), None)
        other = figure(teacher, self.labels)
        return self.resamples.paired(
            lambda counts: mean(counts, one), lambda counts: mean(counts, other)
        )


def _notes(models: list[_Model]) -> tuple[str, ...]:
    return tuple(
        f"No temperature was fitted to the {model.name}, since the validation samples set it no "
        "bound: all are answered right, or none better than by chance."
        for model in models
        if not model.temperature.fitted
    )


def workload(context: EvaluationContext, **settings: object) -> Workload:
    """Compute the workload: the validation samples, and the test samples unless they are known."""
    return Workload(predictions=context.to_answer + context.validation_size)
