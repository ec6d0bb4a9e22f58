"""Relation losses between the samples of a batch (SP, CC, PKT, RKD): one scalar.

Only relations are compared, so that the feature sizes of student and teacher may differ, without a
connector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from limbeck.core.annotations import OnlyWith
from limbeck.core.numbers import is_positive, is_whole
from limbeck.core.tensors import length, unit_length, without_autocast
from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses._blocks import map_copies
from limbeck.losses._inputs import check_temperature, vector_pair
from limbeck.losses._maps import products
from limbeck.losses._types import Features, Scalar

Kernel: TypeAlias = Literal["gaussian", "bilinear"]
_EPSILON = 1e-7  # the epsilon of norms and probabilities in the published code of `pkt`


def similarity_preserving(student: Features, teacher: Features) -> Scalar:
    r"""Compute the similarity-preserving loss (SP) between normalised batch similarity matrices.

    With F one row of features per sample, and each row of F Fᵀ normalised to length one:

    $$\frac1{N^2} \left\| G_S - G_T \right\|^2_F, \quad
    G_{i\cdot} = \frac{(F F^\top)_{i\cdot}}{\| (F F^\top)_{i\cdot} \|_2}$$

    The weight published with the CIFAR-100 benchmark (3000) applies unchanged.

    Args:
        student: Features, `[samples, ...]`.
        teacher: Features, `[samples, ...]`, of any size.

    Returns:
        A scalar, at least 0; 0 for no samples.

    Raises:
        InputError: No feature dimension, integer dtypes, or different numbers of samples.

    Example:
        >>> similarity_preserving(torch.eye(2), torch.ones(2, 3))
        tensor(0.2929)

    Source: Tung and Mori 2019.
    """
    student, teacher = vector_pair(student, teacher, where="similarity_preserving")
    if not len(student):
        return student.sum()
    first, second = (unit_length(products(side, side)) for side in (student, teacher))
    return F.mse_loss(first, second)


def correlation_congruence(
    student: Features,
    teacher: Features,
    *,
    kernel: Kernel = "gaussian",
    gamma: PositiveFloat = 0.4,
    order: PositiveInt = 2,
) -> Scalar:
    r"""Compute the correlation congruence loss (CC) between kernel matrices of a batch.

    With f the features of a sample, normalised to length one, and P the order:

    $$
    \begin{aligned}
    & \frac1{N^2} \left\| C_S - C_T \right\|^2_F, \\
    & C_{ij} = \sum_{p=0}^{P} e^{-2\gamma} \frac{(2\gamma)^p}{p!} \langle f_i, f_j \rangle^p
    \text{ (gaussian)}, \quad C_{ij} = \langle f_i, f_j \rangle \text{ (bilinear)}
    \end{aligned}
    $$

    The sum is the Taylor expansion of exp(−γ‖fᵢ − fⱼ‖²). `spatial_correlation` is the same across
    the positions of one sample. The weight of the CIFAR-100 benchmark's "CC" (0.02) belongs to
    another formula and does not apply.

    Args:
        student: Features, `[samples, ...]`.
        teacher: Features, `[samples, ...]`, of any size.
        kernel: `gaussian` or `bilinear`.
        gamma: γ, above 0. Only for `gaussian`.
        order: P, at least 1. Only for `gaussian`.

    Returns:
        A scalar, at least 0; 0 for no samples.

    Raises:
        InputError: As `similarity_preserving`; an unknown kernel, a gamma <= 0, or an order below
            1.

    Example:
        >>> correlation_congruence(torch.eye(2), torch.ones(2, 3), kernel="bilinear")
        tensor(0.5000)

    Source: Peng et al. 2019 (CCKD).
    """
    where = "correlation_congruence"
    student, teacher = vector_pair(student, teacher, where=where)
    check_choice(kernel, get_args(Kernel), where=f"{where}.kernel")
    if not is_positive(gamma):
        raise InputError(Problem(f"{where}.gamma", gamma, "a finite number above 0", "Try 0.4."))
    if not is_whole(order, least=1):
        raise InputError(Problem(f"{where}.order", order, "a whole number, at least 1", "Try 2."))
    if not len(student):
        return student.sum()
    first, second = (_correlations(side, kernel, gamma, order) for side in (student, teacher))
    return F.mse_loss(first, second)


def _correlations(features: Tensor, kernel: Kernel, gamma: float, order: int) -> Tensor:
    directions = unit_length(features)
    cosines = products(directions, directions)
    if kernel == "bilinear":
        return cosines
    powers = range(order + 1)
    terms = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in powers]
    result = torch.full_like(cosines, terms[-1])
    for term in reversed(terms[:-1]):
        result = result * cosines + term
    return result


def pkt(student: Features, teacher: Features) -> Scalar:
    r"""Compute the probabilistic knowledge transfer loss (PKT): KL of neighbour probabilities.

    With cosines cᵢⱼ between samples, normalised to probabilities row by row, and ε = 1e-7:

    $$\frac1{N^2} \sum_{ij} p^T_{ij} \log\frac{p^T_{ij} + \varepsilon}{p^S_{ij} + \varepsilon},
    \quad p_{ij} = \frac{(c_{ij} + 1)/2}{\sum_k (c_{ik} + 1)/2}, \quad
    c_{ij} = \Big\langle \frac{f_i}{\|f_i\| + \varepsilon},
    \frac{f_j}{\|f_j\| + \varepsilon} \Big\rangle$$

    It is the mean over all N² entries, not over the N rows: with the published ε and the weight
    published with the CIFAR-100 benchmark (30000), which applies unchanged.

    Args:
        student: Features, `[samples, ...]`.
        teacher: Features, `[samples, ...]`, of any size.

    Returns:
        A scalar, 0 at student = teacher and negative at most by rounding; 0 for no samples.

    Raises:
        InputError: As `similarity_preserving`.

    Example:
        >>> pkt(torch.eye(2), torch.ones(2, 3))
        tensor(0.0294)

    Source: Passalis and Tefas 2018 (PKT).
    """
    student, teacher = vector_pair(student, teacher, where="pkt")
    if not len(student):
        return student.sum()
    p, q = _neighbour_probabilities(teacher), _neighbour_probabilities(student)
    return (p * ((p + _EPSILON) / (q + _EPSILON)).log()).mean()


def _neighbour_probabilities(features: Tensor) -> Tensor:
    """Return each sample's distribution over the samples, proportional to 1 + cosine."""
    directions = features / (length(features) + _EPSILON)
    # Rounding may make a cosine of opposite directions smaller than -1; half of 1 + c would cancel.
    nearness = (products(directions, directions) + 1).clamp_min(0)
    return nearness / nearness.sum(1, keepdim=True)


Similarity: TypeAlias = Literal["huber", "kl"]
_BLOCK = 2**24  # the number of direction and angle values computed at once


def rkd_distance(
    student: Features,
    teacher: Features,
    *,
    similarity: Similarity = "huber",
    temperature: PositiveFloat = 1.0,
    pairs: Annotated[PositiveInt | None, OnlyWith("similarity", "huber")] = None,
    generator: torch.Generator | None = None,
) -> Scalar:
    r"""Compute the RKD distance loss: normalised pairwise distances between samples.

    Distances are divided by the mean of the non-zero ones, per side:

    $$\frac1{N^2} \sum_{ij} h(\psi^S_{ij} - \psi^T_{ij}), \quad
    \psi_{ij} = \frac{\|f_i - f_j\|_2}{\mu}, \quad
    h(x) = \begin{cases} x^2/2 & |x| \le 1 \\ |x| - 1/2 & \text{otherwise} \end{cases}$$

    It is the mean over all N² entries, including the diagonal's zeros: the weight published with
    the CIFAR-100 benchmark (25) applies unchanged. With `similarity="kl"` rows are compared as
    distributions, without the diagonal, for N samples:

    $$\frac{\tau^2}N \sum_i KL\left(\mathrm{softmax}_{j \ne i}(\psi^T_{ij}/\tau) \,\|\,
    \mathrm{softmax}_{j \ne i}(\psi^S_{ij}/\tau)\right)$$

    Args:
        student: Features f, `[samples, ...]`.
        teacher: Features, `[samples, ...]`, of any size.
        similarity: `huber` as in the paper, or `kl`.
        temperature: τ, above 0; only `kl` has one.
        pairs: The number of pairs to sample uniformly of the N², instead of all; μ is then that of
            the sampled pairs. Only for `huber`.
        generator: The random generator of the pairs; torch's global one if not given.

    Returns:
        A scalar, at least 0; 0 for at most one sample.

    Raises:
        InputError: As `similarity_preserving`; an unknown similarity, a temperature <= 0, or
            `pairs` below 1 or with `kl`.

    Example:
        >>> rkd_distance(torch.tensor([[0.0], [1], [3]]), torch.tensor([[0.0], [2], [3]]))
        tensor(0.0556)

    Source: Park et al. 2019 (RKD).
    """
    student, teacher = vector_pair(student, teacher, where="rkd_distance")
    _check_settings("rkd_distance", similarity, temperature, pairs=pairs)
    count = len(student)
    if not count:
        return student.sum()
    if pairs is not None:
        drawn = _draw(2, pairs, student, generator)
        return F.huber_loss(_drawn_distances(student, drawn), _drawn_distances(teacher, drawn))
    student, teacher = _divide_by_mean(distances(student)), _divide_by_mean(distances(teacher))
    if similarity == "huber":
        return F.huber_loss(student, teacher, reduction="sum") * 2 / count**2
    diagonal = torch.eye(count, dtype=torch.bool, device=student.device)
    student, teacher = _symmetric_matrix(student, count), _symmetric_matrix(teacher, count)
    return _kl_of_rows(student, teacher, diagonal, temperature).mean()


def rkd_angle(
    student: Features,
    teacher: Features,
    *,
    similarity: Similarity = "huber",
    temperature: PositiveFloat = 1.0,
    triplets: Annotated[PositiveInt | None, OnlyWith("similarity", "huber")] = None,
    generator: torch.Generator | None = None,
) -> Scalar:
    r"""Compute the RKD angle loss: angles of all triplets of samples.

    With eᵢⱼ the direction from sample i to sample j, zero if they are equal, and h as in
    `rkd_distance`:

    $$\frac1{N^3} \sum_{ijk} h\left(\langle e^S_{ij}, e^S_{ik} \rangle -
    \langle e^T_{ij}, e^T_{ik} \rangle\right), \quad e_{ij} = \frac{f_j - f_i}{\|f_j - f_i\|_2}$$

    The weight published with the CIFAR-100 benchmark (50) applies unchanged. Time is O(N³·D);
    memory is bounded, by recomputation. With `similarity="kl"` the cosines of each pair i ≠ j are a
    distribution over the third sample k, other than i and j, and the mean is over the N(N−1) pairs.

    Args:
        student: Features f, `[samples, ...]`.
        teacher: Features, `[samples, ...]`, of any size.
        similarity: `huber` as in the paper, or `kl`.
        temperature: τ, above 0; only `kl` has one.
        triplets: The number of triplets to sample uniformly of the N³, instead of all: unbiased, in
            O(triplets·D). Only for `huber`.
        generator: The random generator of the triplets; torch's global one if not given.

    Returns:
        A scalar, at least 0; 0 for at most one sample.

    Raises:
        InputError: As `rkd_distance`.

    Example:
        >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> rkd_angle(corner, 2 * corner), rkd_angle(corner, torch.eye(3))
        (tensor(0.), tensor(0.0124))

    Source: Park et al. 2019 (RKD).
    """
    student, teacher = vector_pair(student, teacher, where="rkd_angle")
    _check_settings("rkd_angle", similarity, temperature, triplets=triplets)
    count = len(student)
    if not count:
        return student.sum()
    if triplets is not None:
        drawn = _draw(3, triplets, student, generator)
        return F.huber_loss(_drawn_angles(student, drawn), _drawn_angles(teacher, drawn))
    width = max(student.shape[1], teacher.shape[1])
    rows = max(1, _BLOCK // (count * (count + width)))
    settings = (similarity, temperature)
    if rows >= count or torch.compiler.is_compiling():
        total = _angle_loss(student, teacher, *settings, slice(0, count))
    else:
        blocks = [slice(start, start + rows) for start in range(0, count, rows)]
        parts = [_AngleLoss.apply(student, teacher, *settings, block) for block in blocks]
        total = torch.stack(parts).sum()
    return total / (count**3 if similarity == "huber" else max(1, count * (count - 1)))


class _AngleLoss(torch.autograd.Function):
    """The angle loss with recomputation: no tensor of the size of the angles is saved."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        student: Tensor,
        teacher: Tensor,
        similarity: Similarity,
        temperature: float,
        vertices: slice,
    ) -> Tensor:
        return _angle_loss(student, teacher, similarity, temperature, vertices)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        student, teacher, *ctx.settings = inputs
        ctx.save_for_backward(student, teacher)
        ctx.save_for_forward(student, teacher)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _, pull = _AngleLoss._vjp(ctx)
        return *pull(gradients[0]), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: Tensor | None) -> Tensor:
        # The value is a scalar: its gradient times the tangent.
        value, pull = _AngleLoss._vjp(ctx)
        return (pull(torch.ones_like(value))[0] * tangent).sum()

    @staticmethod
    def _vjp(ctx: Any) -> Any:
        student, teacher = ctx.saved_tensors
        return torch.func.vjp(lambda side: _angle_loss(side, teacher, *ctx.settings), student)


def _angle_loss(
    student: Tensor, teacher: Tensor, similarity: Similarity, temperature: float, vertices: slice
) -> Tensor:
    """Compute the sum over the angles at some samples."""
    angles, targets = _angles(student, vertices), _angles(teacher, vertices)
    if similarity == "huber":
        return F.huber_loss(angles, targets, reduction="sum")
    diagonal = torch.eye(len(student), dtype=torch.bool, device=student.device)
    vertex = diagonal[vertices]
    excluded = vertex.unsqueeze(1) | vertex.unsqueeze(2) | diagonal
    values = _kl_of_rows(angles, targets, excluded, temperature)
    return values.masked_fill(vertex, 0).sum()


def _angles(features: Tensor, vertices: slice) -> Tensor:
    """Compute the cosines of the angles at some samples to all pairs."""
    with without_autocast(features):
        directions = unit_length(features.unsqueeze(0) - features[vertices].unsqueeze(1))
        return directions @ directions.mT


def _drawn_angles(features: Tensor, drawn: Sequence[Tensor]) -> Tensor:
    vertex, first, second = (features[index] for index in drawn)
    return (unit_length(first - vertex) * unit_length(second - vertex)).sum(-1)


def distances(features: Tensor) -> Tensor:
    """Compute the distances of all pairs of rows, in the order of `torch.pdist`.

    Example:
        >>> distances(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]))
        tensor([5., 0., 5.])
    """
    if torch.compiler.is_compiling():
        return torch.pdist(features)
    result: Tensor = _Distances.apply(features)
    return result


class _Distances(torch.autograd.Function):
    """Distances by differences, their derivatives by matrix products.

    Differences are exact for close and for equal rows; torch computes them fast. But its gradient
    takes thirty times as long, and it has neither second derivatives nor forward mode.
    """

    @staticmethod
    def forward(features: Tensor) -> Tensor:
        return torch.pdist(features)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        features, lengths = ctx.saved_tensors
        factors = _symmetric_matrix(gradients[0] * _inverse(lengths), len(features))
        centred = features - features.mean(0)  # only differences matter
        with without_autocast(features):
            return factors.sum(1, keepdim=True) * centred - factors @ centred

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        features, lengths = ctx.saved_tensors
        cross = products(features - features.mean(0), tangent - tangent.mean(0))
        own = cross.diagonal()
        count = len(features)
        first, second = torch.triu_indices(count, count, 1, device=features.device)
        change = own[first] + own[second] - cross[first, second] - cross[second, first]
        return change * _inverse(lengths)

    @staticmethod
    def vmap(info: Any, dims: tuple[int], features: Tensor) -> tuple[Tensor, int]:
        return map_copies(_Distances.apply, info.batch_size, dims, (features,)), 0


def _inverse(lengths: Tensor) -> Tensor:
    """Return the inverse of each distance, and 0 for a distance of 0, with derivatives of 0."""
    zero = lengths <= 0
    return lengths.masked_fill(zero, 1).reciprocal().masked_fill(zero, 0)


def _symmetric_matrix(pairs: Tensor, count: int) -> Tensor:
    """Convert one value per pair to a symmetric matrix with a diagonal of zeros."""
    matrix = pairs.new_zeros(count, count)
    first, second = torch.triu_indices(count, count, 1, device=pairs.device)
    matrix[first, second] = pairs
    return matrix + matrix.T


def _drawn_distances(features: Tensor, drawn: Sequence[Tensor]) -> Tensor:
    first, second = (features[index] for index in drawn)
    return _divide_by_mean(torch.linalg.vector_norm(second - first, dim=-1))


def _divide_by_mean(distances: Tensor) -> Tensor:
    """Divide distances by the mean of the non-zero ones; return them unchanged without any."""
    mean = distances.sum() / (distances > 0).sum().clamp_min(1)
    return distances / torch.where(mean == 0, 1, mean)


def _kl_of_rows(student: Tensor, teacher: Tensor, excluded: Tensor, temperature: float) -> Tensor:
    """Compute the KL divergence of rows as distributions, with exclusions; 0 for empty rows."""
    lowest = torch.finfo(student.dtype).min / 4
    log_q, log_p = (
        (side / temperature).masked_fill(excluded, lowest).log_softmax(-1)
        for side in (student, teacher.to(student.dtype))
    )
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)


def _draw(
    size: int, count: int, features: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, ...]:
    """Draw `count` pairs or triplets of samples, an index tensor for each of their members."""
    device = features.device if generator is None else generator.device
    drawn = torch.randint(len(features), (size, count), generator=generator, device=device)
    return drawn.to(features.device).unbind()


def _check_settings(where: str, similarity: object, temperature: object, **drawn: object) -> None:
    check_choice(similarity, get_args(Similarity), where=f"{where}.similarity")
    check_temperature(temperature, where=f"{where}.temperature")
    for name, count in drawn.items():
        if count is not None and not is_whole(count, least=1):
            allowed, fix = "a whole number, at least 1", "Leave it out for all."
            raise InputError(Problem(f"{where}.{name}", count, allowed, fix))
        if count is not None and similarity == "kl":
            allowed = 'only with similarity="huber"'
            raise InputError(Problem(f"{where}.{name}", count, allowed, "Leave it out."))
