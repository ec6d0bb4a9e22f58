"""Relational knowledge distillation: distances between samples, and angles: one scalar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses.inputs import check_temperature
from limbeck.losses.samples import vector_pair
from limbeck.precision import without_autocast
from limbeck.vectors import unit_length

Similarity: TypeAlias = Literal["huber", "kl"]

_BLOCK = 2**24  # how many numbers of directions and angles are formed at once


def rkd_distance(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    similarity: Similarity = "huber",
    temperature: float = 1.0,
    pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""Ask that samples be as far from each other as they are for the teacher.

    Distances are divided by the mean of those above zero, on each side by its own:

    $$\frac1{N^2} \sum_{ij} h(\psi^S_{ij} - \psi^T_{ij}), \quad
    \psi_{ij} = \frac{\|f_i - f_j\|_2}{\mu}, \quad
    h(x) = \begin{cases} x^2/2 & |x| \le 1 \\ |x| - 1/2 & \text{otherwise} \end{cases}$$

    It is the mean over all N² entries, the diagonal's zeros among them: the weight published with
    the CIFAR-100 benchmark (25) applies as it is. With `similarity="kl"` (ledger B9) rows are
    compared as distributions, without the diagonal, for N samples:

    $$\frac{\tau^2}N \sum_i KL\left(\mathrm{softmax}_{j \ne i}(\psi^T_{ij}/\tau) \,\|\,
    \mathrm{softmax}_{j \ne i}(\psi^S_{ij}/\tau)\right)$$

    Args:
        student: Features f, `[samples, ...]`.
        teacher: Features, `[samples, ...]`, of any size. No gradient reaches them.
        similarity: `huber` as in the paper, or `kl`.
        temperature: τ, above 0; only `kl` has one.
        pairs: Look at so many of the N² pairs, drawn with equal chances, in place of all. μ is then
            that of the pairs drawn. Only for `huber`.
        generator: Draws the pairs; torch's global one if not given.

    Returns:
        A scalar, at least 0; float32 for half-precision features; 0 for no samples or one.

    Raises:
        InputError: Features without an axis beside the samples', whole numbers, sides of different
            numbers of samples, an unknown similarity, a temperature not above 0, or `pairs` below
            1 or beside `kl`.

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
    r"""Ask that samples be seen from each other under the angles that the teacher sees.

    With eᵢⱼ the direction from sample i to sample j, zero if they are equal, and h as in
    `rkd_distance`:

    $$\frac1{N^3} \sum_{ijk} h\left(\langle e^S_{ij}, e^S_{ik} \rangle -
    \langle e^T_{ij}, e^T_{ik} \rangle\right), \quad e_{ij} = \frac{f_j - f_i}{\|f_j - f_i\|_2}$$

    It is the mean over all N³ entries: the weight published with the CIFAR-100 benchmark (50)
    applies as it is. Time is O(N³·D). Memory is bounded: where all angles would be too many at
    once, they are formed block by block, and again for the gradient. With `similarity="kl"` the
    cosines of each pair i ≠ j are a distribution over the third sample k, other than i and j, as
    in `rkd_distance`, and the mean is over the N(N−1) pairs.

    Args:
        student: Features f, `[samples, ...]`.
        teacher: Features, `[samples, ...]`, of any size. No gradient reaches them.
        similarity: `huber` as in the paper, or `kl`.
        temperature: τ, above 0; only `kl` has one.
        triplets: Look at so many of the N³ triplets, drawn with equal chances, in place of all:
            without bias, and in O(triplets·D). Only for `huber`.
        generator: Draws the triplets; torch's global one if not given.

    Returns:
        A scalar, at least 0; float32 for half-precision features; 0 for no samples or one.

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
    seen_from = partial(_seen_from, ours, theirs, similarity, temperature)
    if len(blocks) == 1:
        total = seen_from(blocks[0])
    else:
        total = torch.stack([_again_backward(seen_from, block) for block in blocks]).sum()
    return total / (count**3 if similarity == "huber" else max(1, count * (count - 1)))


def _again_backward(function: Callable[[slice], Tensor], block: slice) -> Tensor:
    """Keep nothing for the gradient: what it needs is formed again."""
    value: Tensor = checkpoint(function, block, use_reentrant=False, preserve_rng_state=False)
    return value


def _seen_from(
    ours: Tensor, theirs: Tensor, similarity: Similarity, temperature: float, vertices: slice
) -> Tensor:
    """Sum over what some samples see."""
    seen, expected = _angles(ours, vertices), _angles(theirs, vertices)
    if similarity == "huber":
        return F.huber_loss(seen, expected, reduction="sum")
    itself = torch.eye(len(ours), dtype=torch.bool, device=ours.device)
    vertex = itself[vertices]
    left_out = vertex.unsqueeze(1) | vertex.unsqueeze(2) | itself
    values = _divergences(seen, expected, left_out, temperature)
    return values.masked_fill(vertex, 0).sum()


def _angles(features: Tensor, vertices: slice) -> Tensor:
    """Give the cosines of the angles under which some samples see all pairs."""
    with without_autocast(features):
        directions = unit_length(features.unsqueeze(0) - features[vertices].unsqueeze(1))
        return directions @ directions.mT


def _drawn_angles(features: Tensor, drawn: Sequence[Tensor]) -> Tensor:
    vertex, one, other = (features[index] for index in drawn)
    return (unit_length(one - vertex) * unit_length(other - vertex)).sum(-1)


def distances(features: Tensor) -> Tensor:
    """Give the distance of each two rows, once, in the order of `torch.pdist`.

    Example:
        >>> distances(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]))
        tensor([5., 0., 5.])
    """
    given: Tensor = _Distances.apply(features)
    return given


class _Distances(torch.autograd.Function):
    """Distances by differences, their gradient by a product of matrices.

    Differences keep the digits of what is near and far from zero, and tell what is equal; torch
    forms them fast. But its gradient forms them again, which takes thirty times as long.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        apart = torch.pdist(features)
        ctx.save_for_backward(features, apart)
        return apart

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        features, apart = ctx.saved_tensors
        pulls = _square(torch.where(apart > 0, gradients[0] / apart, 0), len(features))
        centred = features - features.mean(0)  # nothing but differences counts
        with without_autocast(features):
            return pulls.sum(1, keepdim=True) * centred - pulls @ centred


def _square(pairs: Tensor, count: int) -> Tensor:
    """Lay what is given once for each two out as a symmetric matrix with a diagonal of zeros."""
    matrix = pairs.new_zeros(count, count)
    one, other = torch.triu_indices(count, count, 1, device=pairs.device)
    matrix[one, other] = pairs
    return matrix + matrix.T


def _drawn_distances(features: Tensor, drawn: Sequence[Tensor]) -> Tensor:
    one, other = (features[index] for index in drawn)
    return _scaled(torch.linalg.vector_norm(other - one, dim=-1))


def _scaled(distances: Tensor) -> Tensor:
    """Divide by the mean of those above zero; leave them if none is."""
    mean = distances.sum() / (distances > 0).sum().clamp_min(1)
    return distances / torch.where(mean == 0, 1, mean)


def _divergences(ours: Tensor, theirs: Tensor, left_out: Tensor, temperature: float) -> Tensor:
    """Compare rows as distributions over what is not left out; 0 where nothing is left."""
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
