"""The typed figures of a diagnosis."""

from __future__ import annotations

from typing import Literal

from limbeck.core.measurement import Metric, Result
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.context import Role
from limbeck.evaluate.intervals import Summary

Split = Literal["train", "validation", "test"]
Trend = Literal["rising", "past its best", "level", "too short"]


class SplitScores(Result):
    """The primary score of the first seed's models on a split, with paired differences.

    Attributes:
        split: The split; of `train`, a sample of the rows.
        samples: The number of samples.
        scores: The score by role.
        headroom: By how much the teacher is better than the label-only baseline.
        gain: By how much the student is better than the label-only baseline.
    """

    split: Split
    samples: int
    scores: dict[Role, Estimate]
    headroom: Estimate | None = None
    gain: Estimate | None = None


class SeedScores(Result):
    """The test scores of all seeds, with the differences of `SplitScores` seed by seed."""

    numbers: tuple[int, ...]
    scores: dict[Role, Summary]
    headroom: Summary | None = None
    gain: Summary | None = None

    @property
    def seeds(self) -> int:
        """Return the number of seeds."""
        return len(self.numbers)

    @property
    def recovered(self) -> float | None:
        """Return the share of the teacher's lead that the student took; None without a lead."""
        if self.headroom is None or self.gain is None or self.headroom.mean <= 0:
            return None
        return self.gain.mean / self.headroom.mean


class TargetStatistics(Result):
    """The teacher's outputs on a split, as targets.

    Attributes:
        split: The split.
        entropy: The mean entropy in nats; None for outputs that are no probabilities.
        softened_entropy: The same at the highest temperature of the objective.
        confidence: The mean probability of the predicted class.
        accuracy: The share of correct predictions, of elements with a label.
        ece: The expected calibration error over 15 bins of equal width.
        error: The root mean squared error against the labels, in standard deviations of the labels;
            None for classes.
    """

    split: Split
    entropy: float | None = None
    softened_entropy: float | None = None
    confidence: float | None = None
    accuracy: float | None = None
    ece: float | None = None
    error: float | None = None


class TeacherAgreement(Result):
    """The agreement of a model with the teacher on a split.

    Attributes:
        split: The split.
        role: The model.
        name: The name of `agreement`.
        agreement: The share of equal predictions, from 0 to 1.
        kl: The mean KL(teacher || model) at temperature 1, in nats.
        difference: The root mean squared difference in standard deviations of the labels, for
            outputs that are no classes.
    """

    split: Split
    role: Role
    name: str = "Agreement"
    agreement: float | None = None
    kl: float | None = None
    difference: float | None = None

    @property
    def distance(self) -> float | None:
        """Return 1 less the agreement, or the difference of values."""
        return self.difference if self.agreement is None else 1 - self.agreement


class TermShare(Result):
    """A term's share of the summed gradient norms of all weighted terms, before and after."""

    term: str
    start: float | None = None
    end: float | None = None

    @property
    def latest(self) -> float | None:
        """Return the share at the end, or that at the start where the end was not measured."""
        return self.start if self.end is None else self.end


class LearningCurve(Result):
    """The validation score over the epochs, the mean of the trainings of one role.

    Attributes:
        role: The model.
        trainings: The number of trainings.
        epochs: The number of validations.
        best: The best mean score.
        best_epoch: The epoch of the best mean score.
        last: The last mean score.
        trend: `rising` if the last quarter of the epochs is still clearly better than the quarter
            before it; `past its best` if an earlier quarter was clearly better; else `level`.
    """

    role: Role
    trainings: int
    epochs: int
    best: float
    best_epoch: float
    last: float
    trend: Trend


class Figures(Result):
    """The figures of a diagnosis, from which its causes follow.

    Attributes:
        metric: The primary metric.
        baseline: The name of the baseline, such as "label-only student".
        splits: The first seed's scores by split.
        seeds: The test scores of all seeds.
        temperature: The highest temperature of the objective.
        largest_entropy: The entropy of the uniform distribution over the classes, in nats.
        targets: The teacher's outputs by split.
        agreements: The agreement of student and baseline with the teacher by split.
        terms: The gradient share of each term.
        curves: The learning curves.
    """

    metric: Metric
    baseline: str = "label-only student"
    splits: tuple[SplitScores, ...] = ()
    seeds: SeedScores | None = None
    temperature: float = 1.0
    largest_entropy: float | None = None
    targets: tuple[TargetStatistics, ...] = ()
    agreements: tuple[TeacherAgreement, ...] = ()
    terms: tuple[TermShare, ...] = ()
    curves: tuple[LearningCurve, ...] = ()

    def split(self, name: Split) -> SplitScores | None:
        """Return the scores on a split."""
        return next((one for one in self.splits if one.split == name), None)

    def target(self, name: Split) -> TargetStatistics | None:
        """Return the teacher's outputs on a split."""
        return next((one for one in self.targets if one.split == name), None)

    def agreement(self, name: Split, role: Role = "student") -> TeacherAgreement | None:
        """Return a model's agreement with the teacher on a split."""
        own = (one for one in self.agreements if (one.split, one.role) == (name, role))
        return next(own, None)

    def curve(self, role: Role) -> LearningCurve | None:
        """Return the learning curve of a model."""
        return next((one for one in self.curves if one.role == role), None)
