"""Results of adversarial attacks on student and teacher, for the report."""

from __future__ import annotations

from typing import Literal

from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result

Attack = Literal["fgsm", "pgd", "transfer", "gradients", "strongest"]


class AttackRow(Result):
    """The robust accuracy under one attack of one size; None where the attack could not run.

    Attributes:
        attack: `fgsm`; `pgd` on cross-entropy; `transfer`, PGD made on the other model;
            `gradients`, the worst case per image of these and of PGD on the margin; `strongest`,
            the worst case of all, including an attack without gradients. The last two count an
            image that a smaller size broke as broken.
        size: The L-infinity perturbation size.
        student: The student's accuracy.
        teacher: The teacher's.
    """

    attack: Attack
    size: float
    student: Estimate | None
    teacher: Estimate | None


class Example(Result):
    """An image before and after an attack on the student; PNG in base64.

    Attributes:
        label: The label, which was predicted before the attack.
        answer: The student's prediction after it.
        size: The L-infinity perturbation size.
        before: The image.
        after: The perturbed image.
    """

    label: str
    answer: str
    size: float
    before: str
    after: str


def in_255ths(size: float) -> str:
    """Return a perturbation size in 255ths, as in the literature.

    Example:
        >>> in_255ths(8 / 255), in_255ths(0.1)
        ('8/255', '25.5/255')
    """
    return f"{size * 255:.3g}/255"
