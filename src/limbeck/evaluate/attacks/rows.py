"""What attacks did to student and teacher, as the page shows it."""

from __future__ import annotations

from typing import Literal

from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result

Attack = Literal["fgsm", "pgd", "transfer", "gradients", "strongest"]


class AttackRow(Result):
    """Accuracy after one attack of one size; none where the attack could not be made.

    Attributes:
        attack: `fgsm`; `pgd` on cross-entropy; `transfer`, PGD made on the other model;
            `gradients`, the worst of these and of PGD on the margin, picture by picture;
            `strongest`, the worst of all, an attack without gradients among them. The last two
            count what a smaller size broke as broken.
        size: The largest change of any pixel.
        student: The student's accuracy.
        teacher: The teacher's.
    """

    attack: Attack
    size: float
    student: Estimate | None
    teacher: Estimate | None


class Example(Result):
    """A picture before and after an attack on the student; PNG in base64.

    Attributes:
        label: The right answer, which was given before.
        answer: What the student says after.
        size: The largest change of any pixel.
        before: The picture.
        after: The changed picture.
    """

    label: str
    answer: str
    size: float
    before: str
    after: str


def in_255ths(size: float) -> str:
    """Write a size as the field does.

    Example:
        >>> in_255ths(8 / 255), in_255ths(0.1)
        ('8/255', '25.5/255')
    """
    return f"{size * 255:.3g}/255"
