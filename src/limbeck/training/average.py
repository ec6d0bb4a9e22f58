"""Exponential moving average (EMA) of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    r"""The exponential moving average (EMA) of a model.

    $$a_1 = w_1, \qquad a_t = d\,a_{t-1} + (1-d)\,w_t$$

    Floating-point parameters and buffers are averaged, so that batch normalisation statistics fit
    the averaged weights; other buffers, such as counters, are copied.

    Args:
        model: The model to average.
        decay: d, in (0, 1).

    Attributes:
        module: A copy of the model with the averaged weights.
        steps: The number of updates.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = MovingAverage(model, decay=0.75)
        >>> for value in (4.0, 8.0):
        ...     with torch.no_grad():
        ...         _ = model.weight.fill_(value)
        ...     average.update()
        >>> average.module.weight.item()
        5.0

    Source: Polyak and Juditsky 1992; the averaging of buffers as in timm.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.steps = 0
        self._decay = decay
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        real = [pair for pair in pairs if pair[0].is_floating_point()]
        self._averaged = [ours for ours, _ in real], [theirs for _, theirs in real]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the model's current weights; the first update copies them."""
        ours, theirs = self._averaged
        torch._foreach_lerp_(ours, theirs, 1.0 if self.steps == 0 else 1 - self._decay)
        for copied, original in self._copied:
            copied.copy_(original)
        self.steps += 1


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
