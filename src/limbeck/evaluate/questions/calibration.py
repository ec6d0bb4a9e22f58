"""Calibration of student and teacher, as exported and after temperature scaling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.bootstrap import Beside, Resamples, mean
from limbeck.evaluate.calibration_error import corrected_errors
from limbeck.evaluate.finding import Finding, find
from limbeck.evaluate.interval import Result
from limbeck.evaluate.probabilities import brier, log_probabilities, losses
from limbeck.evaluate.reliability import Reliability, gaps, reliability
from limbeck.evaluate.temperature import Temperature, fit_temperature, scaled
from limbeck.evaluate.workload import Workload
from limbeck.export.predictor import answers

if TYPE_CHECKING:
    from limbeck.evaluate.sitting import Side, Sitting
    from limbeck.export.predictor import Answers

Values = NDArray[np.float64]
Labels = NDArray[np.int64]


class Sureness(Result):
    """The calibration of one model, as exported and after scaling, and its temperature."""

    shipped: Reliability
    scaled: Reliability
    temperature: Temperature


class Calibration(Result):
    """The calibration of student and teacher.

    Attributes:
        findings: Calibration error, Brier score and likelihood, as exported and scaled.
        student: The student's metrics.
        teacher: The teacher's, if there is one.
        notes: Reasons for what could not be computed.
    """

    findings: tuple[Finding, ...]
    student: Sureness
    teacher: Sureness | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Model:
    """One model's log-probabilities of the test samples, as exported and scaled."""

    name: str
    shipped: Values
    scaled: Values
    temperature: Temperature


def ask(
    sitting: Sitting, *, bins: int = 15, draws: int = 1000, margin: float = 0.01
) -> Calibration:
    """Evaluate the calibration of both models, before and after temperature scaling.

    The temperature of each is fitted on the validation samples.

    Args:
        sitting: The two models and the samples.
        bins: Number of bins.
        draws: Number of bootstrap resamples.
        margin: The non-inferiority margin of a calibration error, a Brier score, and of a
            likelihood in nats.
    """
    labels = sitting.student_answers.labels
    student = _model(sitting.student, sitting.student_answers, sitting)
    teacher = None
    if sitting.teacher is not None and sitting.teacher_answers is not None:
        teacher = _model(sitting.teacher, sitting.teacher_answers, sitting)
    lines = _Lines(labels, Resamples(len(labels), draws=draws, seed=sitting.seed), bins, margin)
    return Calibration(
        findings=(
            *lines.of(student.shipped, None if teacher is None else teacher.shipped),
            *lines.of(student.scaled, None if teacher is None else teacher.scaled, scaled=True),
        ),
        student=_sureness(student, labels, bins),
        teacher=None if teacher is None else _sureness(teacher, labels, bins),
        notes=_notes([student] if teacher is None else [student, teacher]),
    )


def _model(side: Side, test: Answers, sitting: Sitting) -> _Model:
    temperature = fit_temperature(answers(side.predictor, sitting.validation()))
    log_p = log_probabilities(test.logits)
    return _Model(side.name, log_p, scaled(log_p, temperature), temperature)


def _sureness(model: _Model, labels: Labels, bins: int) -> Sureness:
    return Sureness(
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
    ) -> tuple[Finding, Finding, Finding]:
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
            find(
                f"Calibration error{after}",
                unit="share",
                better="lower",
                **dict(error),
                margin=self.margin,
                how=f"Expected calibration error over {self.bins} bins of equal width, less what "
                f"chance adds to it on {len(self.labels)} samples.{way}",
            ),
            find(
                f"Brier score{after}",
                unit="number",
                better="lower",
                **dict(self._mean(brier, student, teacher)),
                margin=self.margin,
                how="Mean squared distance of the probabilities from the right answer, in [0, 2]."
                f"{way}",
            ),
            find(
                f"Negative log-likelihood{after}",
                unit="nats",
                better="lower",
                **dict(self._mean(losses, student, teacher)),
                margin=self.margin,
                how="Mean negative logarithm of the probability of the right answer, in float64."
                f"{way}",
            ),
        )

    def _mean(
        self, figure: Callable[[Values, Labels], Values], student: Values, teacher: Values | None
    ) -> Beside:
        one = figure(student, self.labels)
        if teacher is None:
            return self.resamples.beside(lambda counts: mean(counts, one), None)
        other = figure(teacher, self.labels)
        return self.resamples.beside(
            lambda counts: mean(counts, one), lambda counts: mean(counts, other)
        )


def _notes(models: list[_Model]) -> tuple[str, ...]:
    return tuple(
        f"No temperature was fitted to the {model.name}, since the validation samples set it no "
        "bound: all are answered right, or none better than by chance."
        for model in models
        if not model.temperature.fitted
    )


def workload(sitting: Sitting, **settings: object) -> Workload:
    """Compute the workload: the validation samples, and the test samples unless they are known."""
    return Workload(predictions=sitting.to_answer + sitting.validation_size)
