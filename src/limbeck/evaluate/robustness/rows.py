"""Rows of the robustness results: attacks, certificates and distances."""

from __future__ import annotations

from typing import Literal

from limbeck.core.measurement import Result
from limbeck.evaluate.comparison import Estimate

Attack = Literal["fgsm", "pgd", "transfer", "gradients", "strongest"]


class AttackRow(Result):
    """The robust accuracy under one attack of one size; None where the attack could not run.

    Attributes:
        attack: `fgsm`; `pgd` on cross-entropy; `transfer`, PGD made on the other model;
            `gradients`, the worst case per image of these and of PGD on the margin; `strongest`,
            the worst case of all, including an attack without gradients. The last two count an
            image that a smaller size broke as broken.
        eps: The L-infinity perturbation size.
        student: The student's accuracy.
        teacher: The teacher's.
    """

    attack: Attack
    eps: float
    student: Estimate | None
    teacher: Estimate | None


class Example(Result):
    """An image before and after an attack on the student; PNG in base64.

    Attributes:
        label: The label, which was predicted before the attack.
        answer: The prediction after it.
        eps: The L-infinity perturbation size.
        before: The image.
        after: The perturbed image.
    """

    label: str
    answer: str
    eps: float
    before: str
    after: str


def in_255ths(size: float) -> str:
    """Return a perturbation size in 255ths, as in the literature.

    Example:
        >>> in_255ths(8 / 255), in_255ths(0.1)
        ('8/255', '25.5/255')
    """
    return f"{size * 255:.3g}/255"


class CertifiedRow(Result):
    """The certified accuracy at one perturbation size."""

    eps: float
    student: Estimate
    teacher: Estimate | None


class Distances(Result):
    """Quantiles of the distance to the decision boundary, L2 in pixels from 0 to 1."""

    levels: tuple[float, ...]
    student: tuple[float, ...]
    teacher: tuple[float, ...] | None
