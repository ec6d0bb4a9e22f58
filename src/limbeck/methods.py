"""Named methods: short compositions of terms, to take whole or to change."""

from __future__ import annotations

from limbeck.schedules import Spec
from limbeck.terms import Term


def label_only() -> list[Term]:
    """Learn from labels alone: what every distilled student is compared with.

    Example:
        >>> label_only()
        [Term('task')]
    """
    return [Term("task")]


def hinton(temperature: Spec = 4.0, alpha: float = 0.1) -> list[Term]:
    r"""Learn from the teacher's softened answers, and a little from labels.

    $$\alpha \, L_{task} + (1 - \alpha) \, T^2 \, KL(p_T \| q_T)$$

    Args:
        temperature: T, above 0; a number or a schedule.
        alpha: The weight of the labels, in [0, 1]. The CIFAR-100 benchmark takes 0.1 at T = 4.

    Example:
        >>> hinton()
        [Term('task', weight=0.1), Term('soft_target_kl', weight=0.9, temperature=4.0)]

    Source: Hinton, Vinyals and Dean 2015; settings of Tian, Krishnan and Isola 2020.
    """
    return [
        Term("task", weight=alpha),
        Term("soft_target_kl", weight=1 - alpha, temperature=temperature),
    ]


def fitnets(student: str, teacher: str, *, weight: Spec = 100.0) -> list[Term]:
    r"""Learn from labels, and to hold what the teacher holds at one layer.

    $$L_{task} + w \, \frac1D \|r(f) - g\|^2$$

    with r the connector that brings the student's feature f to the shape of the teacher's g. The
    paper trains on hints first and on answers afterwards: `fitnets(...)` in one stage and
    `hinton()` in the next, or a weight that steps to 0.

    Args:
        student: The path of a module of the student.
        teacher: The path of a module of the teacher.
        weight: w; a number or a schedule. The CIFAR-100 benchmark takes 100.

    Example:
        >>> fitnets("layer2", "layer2")
        [Term('task'), Term('fitnet_hint', student='layer2', teacher='layer2', weight=100.0)]

    Source: Romero et al. 2015; weight of Tian, Krishnan and Isola 2020.
    """
    return [Term("task"), Term("fitnet_hint", student=student, teacher=teacher, weight=weight)]
