"""Methods that look at answers alone."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.per_unit import PerUnit
from limbeck.schedules import Spec
from limbeck.terms import Term


def label_only() -> list[Term]:
    """Learn from labels alone: what every distilled student is compared with.

    Example:
        >>> label_only()
        [Term('task')]
    """
    return [Term("task")]


def hinton(temperature: Spec | PerUnit = 4.0, alpha: float = 0.1) -> list[Term]:
    r"""Learn from the teacher's softened answers, and a little from labels.

    $$\alpha \, L_{task} + (1 - \alpha) \, T^2 \, KL(p_T \| q_T)$$

    Args:
        temperature: T, above 0; a number, a schedule, or one that differs by unit.
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


def dkd(
    temperature: Spec = 4.0, *, alpha: float = 1.0, beta: float = 8.0, warmup: float = 0.0833
) -> list[Term]:
    r"""Learn about the right class and about the wrong ones apart.

    $$L_{task} + w(t) \, T^2 \, (\alpha \, TCKD + \beta \, NCKD)$$

    Args:
        temperature: T, above 0.
        alpha: The weight of how sure the teacher is of the right class.
        beta: The weight of what it says of the others.
        warmup: The share of training over which w rises from 0 to 1; 20 of 240 epochs in the
            paper.

    Example:
        >>> dkd(warmup=0.0)
        [Term('task'), Term('dkd', temperature=4.0, alpha=1.0, beta=8.0)]

    Source: Zhao et al. 2022.
    """
    weight: Spec = {"ramp": {"start": 0.0, "end": 1.0, "until": warmup}} if warmup else 1.0
    term = Term("dkd", weight=weight, temperature=temperature, alpha=alpha, beta=beta)
    return [Term("task"), term]


def dist(
    temperature: float = 1.0, *, beta: float = 2.0, gamma: float = 2.0, weight: Spec = 1.0
) -> list[Term]:
    r"""Learn how answers rank classes, and how classes rank samples, not the answers themselves.

    $$L_{task} + \beta \, L_{inter} + \gamma \, L_{intra}$$

    Args:
        temperature: τ, above 0; 1 on ImageNet and 4 on CIFAR-100 in the published scripts.
        beta: The weight of the relation between classes.
        gamma: The weight of the relation between samples.
        weight: The weight of both.

    Example:
        >>> dist()
        [Term('task'), Term('dist', temperature=1.0, beta=2.0, gamma=2.0)]

    Source: Huang et al. 2022.
    """
    term = Term("dist", weight=weight, temperature=temperature, beta=beta, gamma=gamma)
    return [Term("task"), term]


def ttm(temperature: Spec = 10.0, *, weight: Spec = 45.0) -> list[Term]:
    r"""Learn from the teacher's softened answers without softening the student's.

    Args:
        temperature: T of the teacher's side, above 0; the paper's γ is 1 / T.
        weight: The weight beside the labels'. The paper tunes both to the pair of nets; these are
            for VGG13 and VGG8.

    Example:
        >>> ttm()
        [Term('task'), Term('ttm', weight=45.0, temperature=10.0)]

    Source: Zheng and Yang 2024.
    """
    return [Term("task"), Term("ttm", weight=weight, temperature=temperature)]


def wttm(temperature: Spec = 5.0, *, weight: Spec = 4.0) -> list[Term]:
    r"""As `ttm`, with more weight on samples of which the teacher is less sure.

    Args:
        temperature: T of the teacher's side, above 0.
        weight: The weight beside the labels'. Both are those that the paper has beside `crd`.

    Example:
        >>> wttm()
        [Term('task'), Term('wttm', weight=4.0, temperature=5.0)]

    Source: Zheng and Yang 2024.
    """
    return [Term("task"), Term("wttm", weight=weight, temperature=temperature)]


def logit_standardization(
    temperature: Spec = 2.0, *, alpha: float = 1.0, weight: Spec = 9.0
) -> list[Term]:
    r"""Learn from the teacher's answers up to their offset and their scale.

    $$\alpha \, L_{task} + w \, T^2 \, KL$$ over logits of mean 0 and deviation 1.

    Args:
        temperature: T, above 0.
        alpha: The weight of the labels; 1 in the published code.
        weight: w; 9 in the published code.

    Example:
        >>> logit_standardization()
        [Term('task'), Term('standardized_kl', weight=9.0, temperature=2.0)]

    Source: Sun et al. 2024.
    """
    return [
        Term("task", weight=alpha),
        Term("standardized_kl", weight=weight, temperature=temperature),
    ]


def mlkd(
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0), *, weight: Spec = 9.0
) -> list[Term]:
    r"""Learn from answers sample by sample, from how samples relate, and from how classes do.

    Args:
        temperatures: Summed over, as in the paper.
        weight: The weight beside the labels'; 9 in the published code.

    Example:
        >>> [term.loss for term in mlkd()]
        ['task', 'multi_level']

    Source: Jin, Wang and Lin 2023.
    """
    return [Term("task"), Term("multi_level", weight=weight, temperatures=tuple(temperatures))]
