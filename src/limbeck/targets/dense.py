"""Dense soft targets: all of the teacher's logits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from limbeck.targets.rows import Rows


@dataclass(frozen=True, eq=False)
class DenseTargets:
    """All of the teacher's logits.

    Attributes:
        logits: One row per element, `[units, classes]`; log-probabilities are valid, too.

    Example:
        >>> import torch
        >>> targets = DenseTargets(torch.zeros(2, 3))
        >>> targets.units, targets.classes
        (2, 3)
    """

    logits: Tensor

    @property
    def units(self) -> int:
        """Return the number of elements."""
        return self.logits.shape[0]

    @property
    def classes(self) -> int:
        """Return the teacher's number of classes."""
        return self.logits.shape[-1]

    def take(self, rows: Rows) -> DenseTargets:
        """Return the targets of some elements."""
        return DenseTargets(self.logits[rows])
