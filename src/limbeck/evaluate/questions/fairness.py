"""Are groups and rare classes treated alike, and is what sets them apart the teacher's?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import InputError, Problem, check_choice
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.fairness.by_class import ClassRecall, compare_classes
from limbeck.evaluate.fairness.by_group import Attribute, compare_groups
from limbeck.evaluate.fairness.drawn import Before
from limbeck.evaluate.finding import Finding
from limbeck.evaluate.interval import Result
from limbeck.evaluate.workload import Workload

if TYPE_CHECKING:
    from limbeck.evaluate.sitting import Sitting

SMALLEST = 20
"""With 20 samples a share of one half is known to within 20 points: fewer judge nobody."""


class Fairness(Result):
    """Gaps between groups and between classes, of student and teacher.

    Attributes:
        findings: The lines of the verdict.
        attributes: What was found of the groups, by attribute.
        classes: How well each class is recognised, the rarest first.
        smallest: How many samples a group or class needs to be judged.
        notes: What could not be judged, and why.
    """

    findings: tuple[Finding, ...]
    attributes: tuple[Attribute, ...]
    classes: tuple[ClassRecall, ...]
    smallest: int
    notes: tuple[str, ...]


def ask(
    sitting: Sitting, *, positive: str | None = None, smallest: int = SMALLEST, draws: int = 1000
) -> Fairness:
    """Hold groups beside each other, and rare classes beside frequent ones.

    The gap of a largest and a smallest is never below zero and grows with noise: whether a student
    has made one larger is told by the difference from its teacher's, on the same draws.

    Args:
        sitting: What to look at; `groups` says to whom each test sample belongs.
        positive: The class that one wants to get, for demographic parity and equalised odds; by
            default the second of two classes, and of more whichever has the largest gap.
        smallest: How many samples a group or class needs to be judged. For equalised odds a group
            needs as many of the class, or of the others.
        draws: How often the samples are drawn again.

    Raises:
        InputError: There is no class of that name, or an attribute does not name every sample.
    """
    chosen = _chosen(sitting.classes, positive)
    before = _before(sitting, smallest=smallest, draws=draws)
    findings: list[Finding] = []
    attributes: list[Attribute] = []
    notes: list[str] = []
    for name, of in sitting.groups.items():
        if len(of) != len(before.labels):
            allowed = f"one name a test sample, {len(before.labels)} in all"
            raise InputError(Problem(f"groups.{name}", f"{len(of)} names", allowed))
        attribute, found, unknown = compare_groups(name, of, before, chosen=chosen)
        attributes.append(attribute)
        findings += found
        notes += unknown
    if not sitting.groups:
        notes.append("No attribute of the samples was given, so no groups could be compared.")
    classes, found, unknown = compare_classes(_frequency(sitting), before)
    return Fairness(
        findings=(*findings, *found),
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


def _before(sitting: Sitting, *, smallest: int, draws: int) -> Before:
    both = [sitting.student_answers, sitting.teacher_answers]
    return Before(
        labels=sitting.student_answers.labels,
        predicted=tuple(side.logits.argmax(axis=1) for side in both if side is not None),
        classes=sitting.classes,
        resamples=Resamples(len(sitting.student_answers), draws=draws, seed=sitting.seed),
        smallest=smallest,
    )


def _frequency(sitting: Sitting) -> NDArray[np.int64]:
    """Count the classes among the validation samples: test samples may have been balanced."""
    labels = np.concatenate([np.asarray(batch["label"]) for batch in sitting.validation()])
    return np.bincount(labels, minlength=len(sitting.classes))


def workload(sitting: Sitting, **settings: object) -> Workload:
    """Compute the workload: the test samples, unless their predictions are known."""
    return Workload(predictions=sitting.to_answer)
