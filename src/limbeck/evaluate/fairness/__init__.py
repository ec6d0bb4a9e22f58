"""Group fairness, rare classes, and bias inheritance from the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from limbeck.core.measurement import Result
from limbeck.errors import check_choice
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
        attributes: The results per sensitive attribute.
        classes: The recall of each class, the rarest first.
        smallest: The number of samples that a group or class needs to be judged.
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

    The largest rate less the smallest is never negative and is biased upwards by noise: whether a
    student has increased a gap follows from the paired difference from its teacher's.

    Args:
        context: The evaluation context; `sensitive_features` holds the group of each test sample.
        positive: The favourable class, for demographic parity and equalised odds; by default the
            second of two classes, and of more whichever has the largest gap.
        smallest: The number of samples that a group or class needs to be judged. For equalised odds
            a group needs as many of the class, or of the others.
        n_resamples: Number of bootstrap resamples.

    Raises:
        InputError: There is no class of that name, or an attribute does not name every sample.
    """
    positives = _positives(context.classes, positive)
    predictions = [context.student_predictions, context.teacher_predictions]
    labels = context.student_predictions.labels
    inputs = FairnessInputs(
        labels=labels,
        predicted=tuple(one.logits.argmax(axis=1) for one in predictions if one is not None),
        classes=context.classes,
        positives=positives,
        resamples=Resamples(len(labels), n_resamples=n_resamples, seed=context.seed),
        smallest=smallest,
    )
    attributes: list[Attribute] = []
    comparisons: list[MetricComparison] = []
    notes: list[str] = []
    for name, groups in context.checked_features().items():
        attribute, found, unknown = compare_groups(name, groups, inputs)
        attributes.append(attribute)
        comparisons += found
        notes += unknown
    if not context.sensitive_features:
        notes.append("No attribute of the samples was given, so no groups could be compared.")
    # Frequencies are those of the validation samples: test samples may have been balanced.
    validation = np.concatenate([np.asarray(batch["labels"]) for batch in context.validation()])
    frequency = np.bincount(validation, minlength=len(context.classes))
    classes, found, unknown = compare_classes(frequency, inputs)
    return Fairness(
        comparisons=(*comparisons, *found),
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
    _positives(classes, positive)


def _positives(classes: tuple[str, ...], positive: str | None) -> tuple[int, ...]:
    if positive is not None:
        check_choice(positive, classes, where="fairness.positive")
        return (classes.index(positive),)
    return (1,) if len(classes) == 2 else tuple(range(len(classes)))


def workload(context: EvaluationContext, **settings: object) -> Workload:
    """Compute the workload: the test samples, unless their predictions are known."""
    return Workload(predictions=context.samples_to_predict)
