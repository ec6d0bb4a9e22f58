"""Parts of a student that follow the training, or add a penalty to its loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from limbeck.core.parametrized import Penalizing, Progressive
from limbeck.objective import Losses, TermLoss
from limbeck.tasks import Response


class Regularizer:
    """The progressive and penalizing parts of a student.

    Args:
        student: The student.
    """

    def __init__(self, student: nn.Module) -> None:
        self._progressive = [part for part in student.modules() if isinstance(part, Progressive)]
        self._penalizing = [part for part in student.modules() if isinstance(part, Penalizing)]

    def advance(self, progress: float) -> None:
        """Set the training progress of every progressive part."""
        for part in self._progressive:
            part.advance(progress)

    def add(
        self, losses: Losses, response: Response, total_weights: Mapping[str, Tensor] | None
    ) -> Losses:
        """Add this micro-batch's part of the penalties, as the term `penalty`."""
        if not self._penalizing:
            return losses
        penalty = torch.stack([part.penalty() for part in self._penalizing]).sum()
        if total_weights is not None:
            [name, *_] = response.outputs
            penalty = penalty * response.primary.weights.sum() / total_weights[name]
        logged = TermLoss(penalty.detach(), penalty.detach())
        terms = {**losses.terms, "penalty": logged}
        return Losses(losses.total + penalty, terms, losses.gradient_norms)
