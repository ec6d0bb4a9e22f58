"""Tensors of loss computations: features, and a precision independent of the inputs' dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor

Features: TypeAlias = Tensor | Sequence[Tensor]
"""The feature of one layer, or those of several layers."""

_HALF = (torch.float16, torch.bfloat16)


def precise(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; return other dtypes unchanged.

    Example:
        >>> precise(torch.zeros(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return tensor.float() if tensor.dtype in _HALF else tensor


def precise_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both tensors in the computation's precision, determined by the student.

    The teacher's tensor is detached.

    Example:
        >>> student, teacher = precise_pair(torch.zeros(2).double(), torch.zeros(2).half())
        >>> teacher.dtype
        torch.float64
    """
    student = precise(student)
    # Also without gradients: detaching ends forward-mode tangents, too.
    return student, teacher.detach().to(student.dtype)


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Disable autocast, so that matrix products keep the precision of their inputs.

    Example:
        >>> with torch.autocast("cpu", dtype=torch.bfloat16), without_autocast(torch.ones(1)):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.float32
    """
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


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
