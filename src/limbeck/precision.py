"""The precision that a loss is computed in, whatever its inputs came in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def precise(tensor: Tensor) -> Tensor:
    """Take half precision to float32; leave the rest as it is.

    Example:
        >>> precise(torch.zeros(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return tensor.float() if tensor.dtype in _HALF else tensor


def precise_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Give both in the precision to compute in, which the student decides.

    The teacher's has lost its gradient.

    Example:
        >>> ours, theirs = precise_pair(torch.zeros(2).double(), torch.zeros(2).half())
        >>> theirs.dtype
        torch.float64
    """
    ours = precise(student)
    # Even where no gradient is asked for: forward mode's tangents end here, too.
    return ours, teacher.detach().to(ours.dtype)


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Keep matrix products in the precision of their inputs, which autocast would lower.

    Example:
        >>> with torch.autocast("cpu", dtype=torch.bfloat16), without_autocast(torch.ones(1)):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.float32
    """
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
