"""Norms of vectors, with defined results for zero vectors."""

import torch
from torch import Tensor


def unit_length(vectors: Tensor) -> Tensor:
    """Normalise vectors to length one; a zero vector is unchanged, without a gradient.

    Example:
        >>> unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    # Multiplied by the inverse: the gradient of a quotient takes more passes over the vectors.
    return vectors * length(vectors).reciprocal()


def length(vectors: Tensor) -> Tensor:
    """Return the lengths of vectors with a last dimension of one; infinite for zeros, as a divisor.

    Example:
        >>> length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[5.],
                [inf]])
    """
    lengths, zero = norm(vectors)
    return lengths.masked_fill(zero, torch.inf)


def norm(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths of vectors with a last dimension of one, and the mask of zero vectors.

    A zero vector has length 1, with derivatives of 0 of every order: those of torch's norm are not
    finite there from the second on.

    Example:
        >>> norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        (tensor([[5.],
                [1.]]), tensor([[False],
                [ True]]))
    """
    with torch.no_grad():
        lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        zero = lengths <= torch.finfo(lengths.dtype).tiny
    lengths = torch.linalg.vector_norm(vectors.masked_fill(zero, 1), dim=-1, keepdim=True)
    return lengths.masked_fill(zero, 1), zero
