"""Logit-based distillation methods."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.objective.element_weights import PerElement
from limbeck.objective.schedules import Spec
from limbeck.objective.terms import Term


def label_only() -> list[Term]:
    """Build the label-only baseline: the task's own loss.

    Example:
        >>> label_only()
        [Term('task')]
    """
    return [Term("task")]


def hinton(temperature: Spec | PerElement = 4.0, alpha: float = 0.1) -> list[Term]:
    r"""Build knowledge distillation (KD): temperature-scaled KL divergence, and labels.

    $$\alpha \, L_{task} + (1 - \alpha) \, T^2 \, KL(p_T \| q_T)$$

    Args:
        temperature: T, above 0; a number, a schedule, or a temperature per element.
        alpha: The weight of the labels, in [0, 1]; 0.1 at T = 4 in the CIFAR-100 benchmark.

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
    r"""Build decoupled knowledge distillation (DKD) of target and non-target classes.

    $$L_{task} + w(t) \, T^2 \, (\alpha \, TCKD + \beta \, NCKD)$$

    Args:
        temperature: T, above 0.
        alpha: The weight of target class distillation (TCKD).
        beta: The weight of non-target class distillation (NCKD).
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
    r"""Build DIST: Pearson correlation of inter-class and intra-class relations.

    $$L_{task} + \beta \, L_{inter} + \gamma \, L_{intra}$$

    Args:
        temperature: τ, above 0; 1 on ImageNet and 4 on CIFAR-100 in the published scripts.
        beta: The weight of the inter-class relation.
        gamma: The weight of the intra-class relation.
        weight: The weight of both.

    Example:
        >>> dist()
        [Term('task'), Term('dist', temperature=1.0, beta=2.0, gamma=2.0)]

    Source: Huang et al. 2022.
    """
    term = Term("dist", weight=weight, temperature=temperature, beta=beta, gamma=gamma)
    return [Term("task"), term]


def ttm(temperature: Spec = 10.0, *, weight: Spec = 45.0) -> list[Term]:
    r"""Build transformed teacher matching (TTM): the temperature applies to the teacher only.

    Args:
        temperature: T of the teacher, above 0; the paper's γ is 1 / T.
        weight: The weight relative to the labels. The paper tunes both per pair of nets; these are
            for VGG13 and VGG8.

    Example:
        >>> ttm()
        [Term('task'), Term('ttm', weight=45.0, temperature=10.0)]

    Source: Zheng and Yang 2024.
    """
    return [Term("task"), Term("ttm", weight=weight, temperature=temperature)]


def wttm(temperature: Spec = 5.0, *, weight: Spec = 4.0) -> list[Term]:
    r"""Build weighted TTM (WTTM): TTM with higher weights for less confident teacher outputs.

    Args:
        temperature: T of the teacher, above 0.
        weight: The weight relative to the labels. Both are the paper's for the combination with
            `crd`.

    Example:
        >>> wttm()
        [Term('task'), Term('wttm', weight=4.0, temperature=5.0)]

    Source: Zheng and Yang 2024.
    """
    return [Term("task"), Term("wttm", weight=weight, temperature=temperature)]


def logit_standardization(
    temperature: Spec = 2.0, *, alpha: float = 1.0, weight: Spec = 9.0
) -> list[Term]:
    r"""Build KD with logit standardisation: KL divergence of z-scored logits.

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
    r"""Build multi-level logit distillation (MLKD): instance, batch and class level.

    Args:
        temperatures: The temperatures of the sum, as in the paper.
        weight: The weight relative to the labels; 9 in the published code.

    Example:
        >>> [term.loss for term in mlkd()]
        ['task', 'mlkd']

    Source: Jin, Wang and Lin 2023.
    """
    return [Term("task"), Term("mlkd", weight=weight, temperatures=tuple(temperatures))]
