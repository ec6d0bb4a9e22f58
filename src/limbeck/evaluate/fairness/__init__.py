"""Group fairness, rare classes, and bias inheritance from the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.errors import InputError, Problem, check_choice
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.comparison import MetricComparison
from limbeck.evaluate.context import Workload
from limbeck.evaluate.fairness.bootstrap import FairnessInputs
from limbeck.evaluate.fairness.by_class import ClassRecall, compare_classes
from limbeck.evaluate.fairness.by_group import Attribute, compare_groups

if TYPE_CHECKING:
    from limbeck.evaluate.context import EvaluationContext


SMALLEST = 20
"""Smallest group: with 20 samples a share of one half has an interval of 20 points to each side."""


class Fairness(Result):
    """Gaps between groups and between classes, of student and teacher.

    Attributes:
        comparisons: The metric comparisons.
        attributes: The results per sensitive attribute.
        classes: The recall of each class, the rarest first.
        smallest: The number of samples that a group or class needs to be judged.
        notes: Reasons for what could not be judged.
    """

    comparisons: tuple[MetricComparison, ...]
    attributes: tuple[Attribute, ...]
    classes: tuple[ClassRecall, ...]
    smallest: int
    notes: tuple[str, ...]


def evaluate(
    context: EvaluationContext,
    *,
    positive: str | None = None,
    smallest: int = SMALLEST,
    n_resamples: int = 1000,
) -> Fairness:
    """Compare groups, and rare classes with frequent ones.

    A gap of the largest and the smallest is never negative and is biased upwards by noise: whether
    a student has increased one follows from the paired difference from its teacher's.

    Args:
        context: The evaluation context; `groups` holds the group of each test sample.
        positive: The favourable class, for demographic parity and equalised odds; by default the
            second of two classes, and of more whichever has the largest gap.
        smallest: The number of samples that a group or class needs to be judged. For equalised odds
            a group needs as many of the class, or of the others.
        n_resamples: Number of bootstrap resamples.

    Raises:
        InputError: There is no class of that name, or an attribute does not name every sample.
    """
    chosen = _chosen(context.classes, positive)
    before = _before(context, smallest=smallest, draws=n_resamples)
    findings: list[MetricComparison] = []
    attributes: list[Attribute] = []
    notes: list[str] = []
    for name, of in context.sensitive_features.items():
        if len(of) != len(before.labels):
            allowed = f"one name a test sample, {len(before.labels)} in all"
            raise InputError(Problem(f"groups.{name}", f"{len(of)} names", allowed))
        attribute, found, unknown = compare_groups(name, of, before, chosen=chosen)
        attributes.append(attribute)
        findings += found
        notes += unknown
    if not context.sensitive_features:
        notes.append("No attribute of the samples was given, so no groups could be compared.")
    classes, found, unknown = compare_classes(_frequency(context), before)
    return Fairness(
        comparisons=(*findings, *found),
        attributes=tuple(attributes),
        classes=classes,
        smallest=smallest,
        notes=(*notes, *unknown),
    )


def check(classes: tuple[str, ...], *, positive: str | None = None) -> None:
    """Check that the positive class is a class of the data, before anything is trained.

    Raises:
        InputError: It is not.
    """
    _chosen(classes, positive)


def _chosen(classes: tuple[str, ...], positive: str | None) -> tuple[int, ...]:
    if positive is not None:
        check_choice(positive, classes, where="fairness.positive")
        return (classes.index(positive),)
    return (1,) if len(classes) == 2 else tuple(range(len(classes)))


def _before(context: EvaluationContext, *, smallest: int, draws: int) -> FairnessInputs:
    both = [context.student_predictions, context.teacher_predictions]
    return FairnessInputs(
        labels=context.student_predictions.labels,
        predicted=tuple(side.logits.argmax(axis=1) for side in both if side is not None),
        classes=context.classes,
        resamples=Resamples(len(context.student_predictions), n_resamples=draws, seed=context.seed),
        smallest=smallest,
    )


def _frequency(context: EvaluationContext) -> NDArray[np.int64]:
    """Count the classes among the validation samples: test samples may have been balanced."""
    labels = np.concatenate([np.asarray(batch["labels"]) for batch in context.validation()])
    return np.bincount(labels, minlength=len(context.classes))


def workload(context: EvaluationContext, **settings: object) -> Workload:
    """Compute the workload: the test samples, unless their predictions are known."""
    return Workload(predictions=context.to_answer)
