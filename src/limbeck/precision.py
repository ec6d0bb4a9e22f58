"""The numerical precision of loss computations, independent of the inputs' dtypes."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

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
        >>> ours, theirs = precise_pair(torch.zeros(2).double(), torch.zeros(2).half())
        >>> theirs.dtype
        torch.float64
    """
    ours = precise(student)
    # Also without gradients: forward mode's tangents end here, too.
    return ours, teacher.detach().to(ours.dtype)


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
