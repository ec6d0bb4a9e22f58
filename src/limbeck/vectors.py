"""Lengths of vectors, where a vector may be nothing but zeros."""

import torch
import torch.nn.functional as F
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
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return F.threshold(lengths, torch.finfo(lengths.dtype).tiny, torch.inf)
