"""Masks that grow while training goes on, by what they hold against a weight.

Beside the mask, each keeps what it needs to say how much a weight counts.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from limbeck.compress.changes.masks import Mask


class Growing(Mask):
    """A mask that a plan changes (`limbeck.compress.masks.growth`)."""

    @abstractmethod
    def score(self, weight: Tensor) -> Tensor:
        """Say how much each weight counts, in the weight's shape; the least are masked first."""

    @property
    def locked(self) -> Tensor:
        """Where the mask stays whatever the scores say, in the weight's shape."""
        return ~self.mask


class ByMagnitude(Growing):
    """Small weights count least; what is masked stays so.

    Args:
        mask: The mask to begin with.
        weight: The weight that it is for.

    Source: Han et al. 2015; gradual: Zhu and Gupta 2017 (arXiv:1710.01878).
    """

    def __init__(self, mask: Tensor, weight: Tensor) -> None:
        super().__init__(mask)

    def score(self, weight: Tensor) -> Tensor:
        """Give |w|."""
        return weight.abs()


class ByDistance(Growing):
    """Weights that moved least since the training began count least; what is masked stays so.

    Args:
        mask: The mask to begin with.
        weight: The weight w₀ from which the distance |w − w₀| is taken.
    """

    start: Tensor

    def __init__(self, mask: Tensor, weight: Tensor) -> None:
        super().__init__(mask)
        self.register_buffer("start", weight.detach().clone())

    def score(self, weight: Tensor) -> Tensor:
        """Give |w − w₀|."""
        return (weight - self.start).abs()


class ByGradient(Growing):
    r"""Weights that training moves towards zero count least; what is masked may come back.

    The scores are parameters. The mask is a step of them, which has no gradient, so that they get
    that of the identity in its place:

    $$\frac{\partial L}{\partial s} = \frac{\partial L}{\partial w'} \odot w$$

    Plain gradient descent at a constant rate makes them $-\sum w \, \partial L / \partial w'$.
    They are kept flat, so that an optimiser whose weight decay falls on matrices spares them.

    Args:
        mask: The mask to begin with; what it masks never comes back.
        weight: The weight that it is for.

    Source: Sanh, Wolf and Rush 2020 (arXiv:2005.07683).
    """

    base: Tensor

    def __init__(self, mask: Tensor, weight: Tensor) -> None:
        super().__init__(mask)
        self.register_buffer("base", mask.clone())
        self.scores = nn.Parameter(torch.zeros_like(weight.detach()).flatten())

    def forward(self, weight: Tensor) -> Tensor:
        """Give the masked weights; the scores get a gradient as if the mask were they."""
        if not torch.is_grad_enabled():
            return weight * self.mask
        scores = self.scores.view_as(weight)
        return weight * (self.mask + (scores - scores.detach()))

    def score(self, weight: Tensor) -> Tensor:
        """Give the scores as they are."""
        return self.scores.detach().view_as(weight)

    @property
    def locked(self) -> Tensor:
        """Where there was a mask before."""
        return ~self.base


SCORES: dict[str, type[ByMagnitude] | type[ByDistance] | type[ByGradient]] = {
    "magnitude": ByMagnitude,
    "distance": ByDistance,
    "gradient": ByGradient,
}
