"""All of the teacher's logits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from limbeck.targets.rows import Rows


@dataclass(frozen=True, eq=False)
class DenseTargets:
    """All of the teacher's logits.

    Attributes:
        logits: One row a unit, `[units, classes]`; log-probabilities serve as well.

    Example:
        >>> import torch
        >>> targets = DenseTargets(torch.zeros(2, 3))
        >>> targets.units, targets.classes
        (2, 3)
    """

    logits: Tensor

    @property
    def units(self) -> int:
        """How many units are answered."""
        return self.logits.shape[0]

    @property
    def classes(self) -> int:
        """How many classes the teacher knows."""
        return self.logits.shape[-1]

    def take(self, rows: Rows) -> DenseTargets:
        """Give the answer to some of the units."""
        return DenseTargets(self.logits[rows])
