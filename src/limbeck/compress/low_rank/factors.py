"""Optimal low-rank factors: of the weights (SVD), or for the layer's input distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from limbeck.compress.change import CompressError

RIDGE = 1e-6
"""Weight of unseen input directions, as a share of the mean of the seen ones."""


@dataclass(frozen=True)
class Moment:
    """Second moments of a layer's inputs or outputs.

    Attributes:
        side: `inputs`: E[x xᵀ], `[n, n]`; `outputs`: E[y yᵀ] with y = A x, `[m, m]`.
        values: The matrix, in float64.
    """

    side: Literal["inputs", "outputs"]
    values: Tensor


@dataclass(frozen=True)
class Decomposition:
    """A matrix and the principal directions of its outputs, in order of importance.

    Attributes:
        matrix: A, `[m, n]`, in float64.
        directions: U, `[m, k]`, orthonormal columns, k = min(m, n).
        energies: The squared singular values, `[k]`, descending: the loss without each direction.
    """

    matrix: Tensor
    directions: Tensor
    energies: Tensor

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return B `[r, n]` and C `[m, r]`, whose product C B is the best matrix of that rank.

        The best matrix is the projection of A on the first directions, U_r U_rᵀ A. The norms are
        balanced: row i of B is as long as column i of C, so that both train and round alike.
        """
        kept = self.directions[:, :rank]
        first = kept.T @ self.matrix
        size = torch.linalg.vector_norm(first, dim=1).sqrt()
        return first / size.where(size > 0, 1.0)[:, None], kept * size


def decompose(matrix: Tensor, moment: Moment | None = None) -> Decomposition:
    r"""Compute the directions to keep in a low-rank approximation of a matrix.

    Without a moment this is the singular value decomposition A = U Σ Vᵀ: the product of the factors
    of rank r has the error $\|A - A_r\|_F^2 = \sum_{i>r} \sigma_i^2$, the minimum over all matrices
    of that rank. With one, the minimised error is that of the outputs,

    $$
    \|(A - A_r)\, C^{1/2}\|_F^2 = \mathbb{E}\, \|A x - A_r x\|^2 = \sum_{i>r} \sigma_i^2,
    \qquad C = \mathbb{E}[x x^\top] + \delta I
    $$

    with σ the singular values of A C^{1/2}. No root of C is inverted: the best matrix is A
    projected on its outputs' principal directions. The small ridge δ (`RIDGE`) includes directions
    that no input had; for every δ the output error is at most that of the plain SVD.

    The directions are eigenvectors of A C Aᵀ, or of the smaller product on the other side, in
    float64. Squaring halves the digits: singular values are exact to about 1e-8 of the largest, and
    smaller ones count as zero.

    Args:
        matrix: A, `[m, n]`.
        moment: The layer's second moments; None weights all inputs equally.

    Raises:
        CompressError: A value is not finite.

    Example:
        >>> found = decompose(torch.diag(torch.tensor([1.0, 3.0, 2.0])))
        >>> found.energies
        tensor([9., 4., 1.], dtype=torch.float64)
        >>> first, second = found.factors(2)
        >>> (second @ first).diagonal()
        tensor([0., 3., 2.], dtype=torch.float64)

    Source: Eckart and Young 1936; with a moment Chen et al. 2021 (DRONE), Wang et al. 2024
    (SVD-LLM, arXiv:2403.07378).
    """
    given = matrix.detach().double()
    if not (given.isfinite().all() and (moment is None or moment.values.isfinite().all())):
        raise CompressError("a matrix cannot be factorised: it holds values that are not finite")
    if given.shape[0] <= given.shape[1] or (moment is not None and moment.side == "outputs"):
        energies, directions = _principal(_outputs(given, moment))
    else:
        seen = given if moment is None else given @ _root(given, moment.values)
        energies, found = _principal(seen.T @ seen)
        # The columns of U Σ in descending order; the small ones are orthogonal only after this.
        directions = torch.linalg.qr(seen @ found).Q
    count = min(given.shape)
    energies = energies[:count].clamp(min=0)
    noise = energies[0] * torch.finfo(torch.float64).eps * max(given.shape)
    return Decomposition(given, directions[:, :count], energies.where(energies > noise, 0.0))


def _principal(products: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors in descending order."""
    values, vectors = torch.linalg.eigh(products)
    return values.flip(0), vectors.flip(1)


def _outputs(matrix: Tensor, moment: Moment | None) -> Tensor:
    """Return A C Aᵀ."""
    plain = matrix @ matrix.T
    if moment is None:
        return plain
    seen = moment.values if moment.side == "outputs" else matrix @ moment.values @ matrix.T
    return seen + _ridge(seen.trace(), plain.trace()) * plain


def _root(matrix: Tensor, inputs: Tensor) -> Tensor:
    """Return a root of C, the lower Cholesky factor."""
    seen = (matrix @ inputs * matrix).sum()
    ridge = _ridge(seen, matrix.square().sum())
    root: Tensor = torch.linalg.cholesky(inputs + ridge * torch.eye(len(inputs)).to(inputs))
    return root


def _ridge(seen: Tensor, plain: Tensor) -> float:
    """Return δ; a layer whose inputs were all zero weights all inputs equally."""
    return float(RIDGE * seen / plain) if seen > 0 and plain > 0 else 1.0
