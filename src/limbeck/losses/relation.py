"""Relation losses between the samples of a batch: SP, CC, PKT; one scalar.

Only relations are compared, `[samples, samples]`, so that the feature sizes of student and teacher
may differ, without a connector.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses.samples import vector_pair
from limbeck.numbers import is_positive
from limbeck.precision import without_autocast
from limbeck.vectors import length, unit_length

Kernel: TypeAlias = Literal["gaussian", "bilinear"]

_TINY = (
    1e-7  # the epsilon of norms and probabilities in the published code of `probabilistic_transfer`
)


def similarity_preserving(
    student: Float[Tensor, "samples ..."], teacher: Float[Tensor, "samples ..."]
) -> Float[Tensor, ""]:
    r"""Compute the similarity-preserving loss (SP) between normalised batch similarity matrices.

    With F one row of features per sample, and each row of F Fᵀ normalised to length one:

    $$\frac1{N^2} \left\| G_S - G_T \right\|^2_F, \quad
    G_{i\cdot} = \frac{(F F^\top)_{i\cdot}}{\| (F F^\top)_{i\cdot} \|_2}$$

    The weight published with the CIFAR-100 benchmark (3000) applies as it is.

    Args:
        student: Features, `[samples, ...]`.
        teacher: Features, `[samples, ...]`, of any size. No gradient reaches them.

    Returns:
        A scalar, at least 0; float32 for half-precision features; 0 for no samples.

    Raises:
        InputError: Features without a feature dimension, integer dtypes, or different numbers of
            samples.

    Example:
        >>> import torch
        >>> similarity_preserving(torch.eye(2), torch.ones(2, 3))
        tensor(0.2929)

    Source: Tung and Mori 2019.
    """
    ours, theirs = vector_pair(student, teacher, where="similarity_preserving")
    if not len(ours):
        return ours.sum()
    with without_autocast(ours):
        return F.mse_loss(unit_length(ours @ ours.T), unit_length(theirs @ theirs.T))


def correlation_congruence(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    kernel: Kernel = "gaussian",
    gamma: float = 0.4,
    order: int = 2,
) -> Float[Tensor, ""]:
    r"""Compute the correlation congruence loss (CC) between kernel matrices of a batch.

    With f the features of a sample, normalised to length one, and P the order:

    $$
    \begin{aligned}
    & \frac1{N^2} \left\| C_S - C_T \right\|^2_F, \\
    & C_{ij} = \sum_{p=0}^{P} e^{-2\gamma} \frac{(2\gamma)^p}{p!} \langle f_i, f_j \rangle^p
    \text{ (gaussian)}, \quad C_{ij} = \langle f_i, f_j \rangle \text{ (bilinear)}
    \end{aligned}
    $$

    The sum is the Taylor expansion of exp(−γ‖fᵢ − fⱼ‖²). This is the paper's version, across the
    samples of a batch; `spatial_correlation` is across the positions of one sample. The weight of
    the CIFAR-100 benchmark's "CC" (0.02) belongs to another formula and does not apply.

    Args:
        student: Features, `[samples, ...]`.
        teacher: Features, `[samples, ...]`, of any size. No gradient reaches them.
        kernel: `gaussian` or `bilinear`.
        gamma: γ, above 0. Only for `gaussian`.
        order: P, at least 1. Only for `gaussian`.

    Returns:
        A scalar, at least 0; float32 for half-precision features; 0 for no samples.

    Raises:
        InputError: As `similarity_preserving`; an unknown kernel, a gamma <= 0, or an order below
            1.

    Example:
        >>> import torch
        >>> correlation_congruence(torch.eye(2), torch.ones(2, 3), kernel="bilinear")
        tensor(0.5000)

    Source: Peng et al. 2019 (CCKD).
    """
    ours, theirs = vector_pair(student, teacher, where="correlation_congruence")
    _check_kernel(kernel, gamma, order)
    if not len(ours):
        return ours.sum()
    return F.mse_loss(
        _correlations(ours, kernel, gamma, order), _correlations(theirs, kernel, gamma, order)
    )


def _correlations(features: Tensor, kernel: Kernel, gamma: float, order: int) -> Tensor:
    products = _cosines(features)
    if kernel == "bilinear":
        return products
    shares = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
    result = torch.full_like(products, shares[-1])
    for share in reversed(shares[:-1]):
        result = result * products + share
    return result


def _cosines(features: Tensor) -> Tensor:
    with without_autocast(features):
        directions = unit_length(features)
        return directions @ directions.T


def _check_kernel(kernel: object, gamma: object, order: object) -> None:
    check_choice(kernel, get_args(Kernel), where="correlation_congruence.kernel")
    if not is_positive(gamma):
        raise InputError(
            Problem("correlation_congruence.gamma", gamma, "a finite number above 0", "Try 0.4.")
        )
    if not isinstance(order, int) or isinstance(order, bool) or order < 1:
        raise InputError(
            Problem("correlation_congruence.order", order, "a whole number, at least 1", "Try 2.")
        )


def probabilistic_transfer(
    student: Float[Tensor, "samples ..."], teacher: Float[Tensor, "samples ..."]
) -> Float[Tensor, ""]:
    r"""Compute the probabilistic knowledge transfer loss (PKT): KL of neighbour probabilities.

    With cosines cᵢⱼ between samples, normalised to probabilities row by row, and ε = 1e-7:

    $$\frac1{N^2} \sum_{ij} p^T_{ij} \log\frac{p^T_{ij} + \varepsilon}{p^S_{ij} + \varepsilon},
    \quad p_{ij} = \frac{(c_{ij} + 1)/2}{\sum_k (c_{ik} + 1)/2}, \quad
    c_{ij} = \Big\langle \frac{f_i}{\|f_i\| + \varepsilon},
    \frac{f_j}{\|f_j\| + \varepsilon} \Big\rangle$$

    It is the mean over all N² entries, not over the N rows: with the published ε and the weight
    published with the CIFAR-100 benchmark (30000), which applies as it is.

    Args:
        student: Features, `[samples, ...]`.
        teacher: Features, `[samples, ...]`, of any size. No gradient reaches them.

    Returns:
        A scalar, 0 at student = teacher and negative at most by rounding; float32 for
        half-precision features; 0 for no samples.

    Raises:
        InputError: As `similarity_preserving`.

    Example:
        >>> import torch
        >>> probabilistic_transfer(torch.eye(2), torch.ones(2, 3))
        tensor(0.0294)

    Source: Passalis and Tefas 2018 (PKT).
    """
    ours, theirs = vector_pair(student, teacher, where="probabilistic_transfer")
    if not len(ours):
        return ours.sum()
    p, q = _neighbours(theirs), _neighbours(ours)
    return (p * ((p + _TINY) / (q + _TINY)).log()).mean()


def _neighbours(features: Tensor) -> Tensor:
    """Return each sample's distribution over the samples, proportional to 1 + cosine."""
    directions = features / (length(features) + _TINY)
    with without_autocast(features):
        cosines = directions @ directions.T
    # Rounding may make a cosine of opposite directions smaller than -1; half of 1 + c would cancel.
    nearness = (cosines + 1).clamp_min(0)
    return nearness / nearness.sum(1, keepdim=True)
