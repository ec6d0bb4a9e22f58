"""Growing masks with their pruning scores (magnitude, distance, movement).

Each holds the state that its score needs.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from limbeck.compress.changes.masks import Mask


class Growing(Mask):
    """A mask changed by a growth schedule (`limbeck.compress.masks.growth`)."""

    @abstractmethod
    def score(self, weight: Tensor) -> Tensor:
        """Compute the score of each weight, in the weight's shape; the lowest are masked first."""

    @property
    def locked(self) -> Tensor:
        """Return where the mask stays regardless of the scores, in the weight's shape."""
        return ~self.mask


class ByMagnitude(Growing):
    """Magnitude score, |w|; masked weights stay masked.

    Args:
        mask: The initial mask.
        weight: The masked weight.

    Source: Han et al. 2015; gradual: Zhu and Gupta 2017 (arXiv:1710.01878).
    """

    def __init__(self, mask: Tensor, weight: Tensor) -> None:
        super().__init__(mask)

    def score(self, weight: Tensor) -> Tensor:
        """Compute |w|."""
        return weight.abs()


class ByDistance(Growing):
    """Distance score, |w − w₀| from the start of training; masked weights stay masked.

    Args:
        mask: The initial mask.
        weight: The weight w₀ from which the distance |w − w₀| is taken.
    """

    start: Tensor

    def __init__(self, mask: Tensor, weight: Tensor) -> None:
        super().__init__(mask)
        self.register_buffer("start", weight.detach().clone())

    def score(self, weight: Tensor) -> Tensor:
        """Compute |w − w₀|."""
        return (weight - self.start).abs()


class ByGradient(Growing):
    r"""Movement score: weights that move towards zero rank lowest; masked ones may return.

    The scores are parameters, with a straight-through gradient through the mask's step function:

    $$\frac{\partial L}{\partial s} = \frac{\partial L}{\partial w'} \odot w$$

    Gradient descent at a constant rate makes them $-\sum w \, \partial L / \partial w'$. They are
    stored flat, so that weight decay on matrices does not apply to them.

    Args:
        mask: The initial mask; its masked weights never return.
        weight: The masked weight.

    Source: Sanh, Wolf and Rush 2020 (arXiv:2005.07683).
    """

    base: Tensor

    def __init__(self, mask: Tensor, weight: Tensor) -> None:
        super().__init__(mask)
        self.register_buffer("base", mask.clone())
        self.scores = nn.Parameter(torch.zeros_like(weight.detach()).flatten())

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weights, with a straight-through gradient for the scores."""
        if not torch.is_grad_enabled():
            return weight * self.mask
        scores = self.scores.view_as(weight)
        return weight * (self.mask + (scores - scores.detach()))

    def score(self, weight: Tensor) -> Tensor:
        """Return the learned scores."""
        return self.scores.detach().view_as(weight)

    @property
    def locked(self) -> Tensor:
        """Return the initially masked entries."""
        return ~self.base


SCORES: dict[str, type[ByMagnitude] | type[ByDistance] | type[ByGradient]] = {
    "magnitude": ByMagnitude,
    "distance": ByDistance,
    "gradient": ByGradient,
}
