"""The forms that a teacher's soft answer takes.

A form says what was kept of the teacher's distribution; `limbeck.losses.divergence` takes any of
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True, eq=False)
class DenseTargets:
    """All of the teacher's logits.

    Attributes:
        logits: One row a unit, `[units, classes]`; log-probabilities serve as well.

    Example:
        >>> import torch
        >>> DenseTargets(torch.zeros(2, 3)).logits.shape
        torch.Size([2, 3])
    """

    logits: Tensor


Targets: TypeAlias = DenseTargets
