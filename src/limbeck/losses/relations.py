"""Relation losses between the samples of a batch: SP, CC, PKT; one scalar.

Only relations are compared, `[samples, samples]`, so that the feature sizes of student and teacher
may differ, without a connector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.core.numbers import is_positive
from limbeck.core.tensors import length, unit_length, without_autocast
from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses._inputs import check_temperature, vector_pair
from limbeck.losses._maps import over_copies

Kernel: TypeAlias = Literal["gaussian", "bilinear"]
_TINY = 1e-7  # the epsilon of norms and probabilities in the published code of `pkt`


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


def pkt(
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
        >>> pkt(torch.eye(2), torch.ones(2, 3))
        tensor(0.0294)

    Source: Passalis and Tefas 2018 (PKT).
    """
    ours, theirs = vector_pair(student, teacher, where="pkt")
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


Similarity: TypeAlias = Literal["huber", "kl"]
_BLOCK = 2**24  # the number of direction and angle values computed at once


def rkd_distance(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    similarity: Similarity = "huber",
    temperature: float = 1.0,
    pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""Compute the RKD distance loss: normalised pairwise distances between samples.

    Distances are divided by the mean of the non-zero ones, per side:

    $$\frac1{N^2} \sum_{ij} h(\psi^S_{ij} - \psi^T_{ij}), \quad
    \psi_{ij} = \frac{\|f_i - f_j\|_2}{\mu}, \quad
    h(x) = \begin{cases} x^2/2 & |x| \le 1 \\ |x| - 1/2 & \text{otherwise} \end{cases}$$

    It is the mean over all N² entries, including the diagonal's zeros: the weight published with
    the CIFAR-100 benchmark (25) applies as it is. With `similarity="kl"` rows are compared as
    distributions, without the diagonal, for N samples:

    $$\frac{\tau^2}N \sum_i KL\left(\mathrm{softmax}_{j \ne i}(\psi^T_{ij}/\tau) \,\|\,
    \mathrm{softmax}_{j \ne i}(\psi^S_{ij}/\tau)\right)$$

    Args:
        student: Features f, `[samples, ...]`.
        teacher: Features, `[samples, ...]`, of any size. No gradient reaches them.
        similarity: `huber` as in the paper, or `kl`.
        temperature: τ, above 0; only `kl` has one.
        pairs: The number of pairs to sample uniformly of the N², instead of all; μ is then that of
            the sampled pairs. Only for `huber`.
        generator: The random generator of the pairs; torch's global one if not given.

    Returns:
        A scalar, at least 0; float32 for half-precision features; 0 for at most one sample.

    Raises:
        InputError: Features without a feature dimension, integer dtypes, different numbers of
            samples, an unknown similarity, a temperature <= 0, or `pairs` below 1 or with `kl`.

    Example:
        >>> import torch
        >>> ours, theirs = torch.tensor([[0.0], [1], [3]]), torch.tensor([[0.0], [2], [3]])
        >>> rkd_distance(ours, theirs)
        tensor(0.0556)

    Source: Park et al. 2019 (RKD).
    """
    ours, theirs = vector_pair(student, teacher, where="rkd_distance")
    _check(similarity, temperature, pairs, where="rkd_distance", drawn="pairs")
    if not len(ours):
        return ours.sum()
    if pairs is not None:
        drawn = _draw(2, pairs, ours, generator)
        return F.huber_loss(_drawn_distances(ours, drawn), _drawn_distances(theirs, drawn))
    count = len(ours)
    ours, theirs = _scaled(distances(ours)), _scaled(distances(theirs))
    if similarity == "huber":
        return F.huber_loss(ours, theirs, reduction="sum") * 2 / count**2
    itself = torch.eye(count, dtype=torch.bool, device=ours.device)
    ours, theirs = _square(ours, count), _square(theirs, count)
    return _divergences(ours, theirs, itself, temperature).mean()


def rkd_angle(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    similarity: Similarity = "huber",
    temperature: float = 1.0,
    triplets: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""Compute the RKD angle loss: angles of all triplets of samples.

    With eᵢⱼ the direction from sample i to sample j, zero if they are equal, and h as in
    `rkd_distance`:

    $$\frac1{N^3} \sum_{ijk} h\left(\langle e^S_{ij}, e^S_{ik} \rangle -
    \langle e^T_{ij}, e^T_{ik} \rangle\right), \quad e_{ij} = \frac{f_j - f_i}{\|f_j - f_i\|_2}$$

    It is the mean over all N³ entries: the weight published with the CIFAR-100 benchmark (50)
    applies as it is. Time is O(N³·D). Memory is bounded: large numbers of angles are computed block
    by block, and again for the gradient. With `similarity="kl"` the cosines of each pair i ≠ j are
    a distribution over the third sample k, other than i and j, as in `rkd_distance`, and the mean
    is over the N(N−1) pairs.

    Args:
        student: Features f, `[samples, ...]`.
        teacher: Features, `[samples, ...]`, of any size. No gradient reaches them.
        similarity: `huber` as in the paper, or `kl`.
        temperature: τ, above 0; only `kl` has one.
        triplets: The number of triplets to sample uniformly of the N³, instead of all: unbiased, in
            O(triplets·D). Only for `huber`.
        generator: The random generator of the triplets; torch's global one if not given.

    Returns:
        A scalar, at least 0; float32 for half-precision features; 0 for at most one sample.

    Raises:
        InputError: As `rkd_distance`.

    Example:
        >>> import torch
        >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> rkd_angle(corner, 2 * corner), rkd_angle(corner, torch.eye(3))
        (tensor(0.), tensor(0.0124))

    Source: Park et al. 2019 (RKD).
    """
    ours, theirs = vector_pair(student, teacher, where="rkd_angle")
    _check(similarity, temperature, triplets, where="rkd_angle", drawn="triplets")
    count = len(ours)
    if not count:
        return ours.sum()
    if triplets is not None:
        drawn = _draw(3, triplets, ours, generator)
        return F.huber_loss(_drawn_angles(ours, drawn), _drawn_angles(theirs, drawn))
    widest = max(ours.shape[1], theirs.shape[1])
    rows = max(1, _BLOCK // (count * (count + widest)))
    blocks = [slice(start, start + rows) for start in range(0, count, rows)]
    if len(blocks) == 1 or torch.compiler.is_compiling():
        total = _seen_from(ours, theirs, similarity, temperature, slice(0, count))
    else:
        kept = (similarity, temperature)
        total = torch.stack([_SeenFrom.apply(ours, theirs, *kept, one) for one in blocks]).sum()
    return total / (count**3 if similarity == "huber" else max(1, count * (count - 1)))


class _SeenFrom(torch.autograd.Function):
    """The angle loss with recomputation: no tensor of the size of the angles is saved."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        ours: Tensor, theirs: Tensor, similarity: Similarity, temperature: float, vertices: slice
    ) -> Tensor:
        return _seen_from(ours, theirs, similarity, temperature, vertices)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ours, theirs, *ctx.settings = inputs
        ctx.save_for_backward(ours, theirs)
        ctx.save_for_forward(ours, theirs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ours, theirs = ctx.saved_tensors
        pull = torch.func.vjp(lambda side: _seen_from(side, theirs, *ctx.settings), ours)[1]
        return *pull(gradients[0]), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: Tensor | None) -> Tensor:
        ours, theirs = ctx.saved_tensors
        # The value is a scalar: its gradient times the tangent.
        pair = torch.func.vjp(lambda side: _seen_from(side, theirs, *ctx.settings), ours)
        value, pull = pair[:2]
        return (pull(torch.ones_like(value))[0] * tangent).sum()


def _seen_from(
    ours: Tensor, theirs: Tensor, similarity: Similarity, temperature: float, vertices: slice
) -> Tensor:
    """Compute the sum over the angles at some samples."""
    seen, expected = _angles(ours, vertices), _angles(theirs, vertices)
    if similarity == "huber":
        return F.huber_loss(seen, expected, reduction="sum")
    itself = torch.eye(len(ours), dtype=torch.bool, device=ours.device)
    vertex = itself[vertices]
    left_out = vertex.unsqueeze(1) | vertex.unsqueeze(2) | itself
    values = _divergences(seen, expected, left_out, temperature)
    return values.masked_fill(vertex, 0).sum()


def _angles(features: Tensor, vertices: slice) -> Tensor:
    """Compute the cosines of the angles at some samples to all pairs."""
    with without_autocast(features):
        directions = unit_length(features.unsqueeze(0) - features[vertices].unsqueeze(1))
        return directions @ directions.mT


def _drawn_angles(features: Tensor, drawn: Sequence[Tensor]) -> Tensor:
    vertex, one, other = (features[index] for index in drawn)
    return (unit_length(one - vertex) * unit_length(other - vertex)).sum(-1)


def distances(features: Tensor) -> Tensor:
    """Compute the distances of all pairs of rows, in the order of `torch.pdist`.

    Example:
        >>> distances(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]))
        tensor([5., 0., 5.])
    """
    if torch.compiler.is_compiling():
        return torch.pdist(features)
    given: Tensor = _Distances.apply(features)
    return given


class _Distances(torch.autograd.Function):
    """Distances by differences, their derivatives by matrix products.

    Differences are exact for close rows far from zero, and for equal rows; torch computes them
    fast. But its gradient recomputes them, which takes thirty times as long, or saves a vector per
    pair; and it has neither second derivatives nor forward mode.
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
        features, apart = ctx.saved_tensors
        pulls = _square(gradients[0] * _inverse(apart), len(features))
        centred = features - features.mean(0)  # only differences matter
        with without_autocast(features):
            return pulls.sum(1, keepdim=True) * centred - pulls @ centred

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        features, apart = ctx.saved_tensors
        centred, moved = features - features.mean(0), tangent - tangent.mean(0)
        with without_autocast(features):
            cross = centred @ moved.T
        own = cross.diagonal()
        count = len(features)
        one, other = torch.triu_indices(count, count, 1, device=features.device)
        change = own[one] + own[other] - cross[one, other] - cross[other, one]
        return change * _inverse(apart)

    @staticmethod
    def vmap(info: Any, dims: tuple[int], features: Tensor) -> tuple[Tensor, int]:
        return over_copies(_Distances.apply, info.batch_size, dims, (features,)), 0


def _inverse(apart: Tensor) -> Tensor:
    """Return the inverse of each distance, and 0 for a distance of 0, with derivatives of 0."""
    none = apart <= 0
    return apart.masked_fill(none, 1).reciprocal().masked_fill(none, 0)


def _square(pairs: Tensor, count: int) -> Tensor:
    """Convert one value per pair to a symmetric matrix with a diagonal of zeros."""
    matrix = pairs.new_zeros(count, count)
    one, other = torch.triu_indices(count, count, 1, device=pairs.device)
    matrix[one, other] = pairs
    return matrix + matrix.T


def _drawn_distances(features: Tensor, drawn: Sequence[Tensor]) -> Tensor:
    one, other = (features[index] for index in drawn)
    return _scaled(torch.linalg.vector_norm(other - one, dim=-1))


def _scaled(distances: Tensor) -> Tensor:
    """Divide distances by the mean of the non-zero ones; return them unchanged without any."""
    mean = distances.sum() / (distances > 0).sum().clamp_min(1)
    return distances / torch.where(mean == 0, 1, mean)


def _divergences(ours: Tensor, theirs: Tensor, left_out: Tensor, temperature: float) -> Tensor:
    """Compute the KL divergence of rows as distributions, with exclusions; 0 for empty rows."""
    lowest = torch.finfo(ours.dtype).min / 4
    log_q, log_p = (
        (side / temperature).masked_fill(left_out, lowest).log_softmax(-1)
        for side in (ours, theirs.to(ours.dtype))
    )
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)


def _draw(
    ends: int, count: int, features: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, ...]:
    device = features.device if generator is None else generator.device
    drawn = torch.randint(len(features), (ends, count), generator=generator, device=device)
    return drawn.to(features.device).unbind()


def _check(
    similarity: object, temperature: object, count: object, *, where: str, drawn: str
) -> None:
    check_choice(similarity, get_args(Similarity), where=f"{where}.similarity")
    check_temperature(temperature, where=f"{where}.temperature")
    if count is None:
        return
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        allowed = "a whole number, at least 1"
        raise InputError(Problem(f"{where}.{drawn}", count, allowed, "Leave it out for all."))
    if similarity == "kl":
        allowed = 'only with similarity="huber"'
        raise InputError(Problem(f"{where}.{drawn}", count, allowed, "Leave it out."))
