"""Lengths of vectors, where a vector may be nothing but zeros."""

import torch
from torch import Tensor


def unit_length(vectors: Tensor) -> Tensor:
    """Scale vectors to length one; a vector of zeros stays, and gets no gradient.

    Example:
        >>> unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    # Times the inverse: the gradient of a quotient takes more passes over the vectors.
    return vectors * length(vectors).reciprocal()


def length(vectors: Tensor) -> Tensor:
    """Give the lengths of vectors as a last axis of one; infinite for zeros, to divide by.

    Example:
        >>> length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[5.],
                [inf]])
    """
    lengths, zero = norm(vectors)
    return lengths.masked_fill(zero, torch.inf)


def norm(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths of vectors as a last axis of one, and which of the vectors are zero.

    The length of zero is given as 1, with derivatives of 0 of every order: those of torch's norm
    are not finite there from the second on.

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
