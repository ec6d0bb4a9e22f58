"""Deterministic selection of an exact number of lowest-scoring weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from limbeck.compress.changes.masks import Mask, mask_of, put
from limbeck.compress.method import CompressError


def count_of(sparsity: float, weights: int) -> int:
    """Return the number of weights to mask, rounded to the nearest integer.

    Example:
        >>> count_of(0.9, 25)
        22
    """
    return round(sparsity * weights)


def smallest(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Select the smallest scores over all tensors.

    Args:
        scores: One tensor per weight, of any shape.
        count: Number to select, at most the number of scores.

    Returns:
        Boolean tensors in the shapes of the scores, with exactly `count` true. Ties are broken by
        order, earlier first.

    Example:
        >>> smallest([torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.5])], 2)
        [tensor([False,  True]), tensor([False,  True])]
    """
    flat = torch.cat([score.flatten() for score in scores])
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    found = _smallest(flat, count) if count else torch.zeros_like(flat, dtype=torch.bool)
    parts = found.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def _smallest(flat: Tensor, count: int) -> Tensor:
    threshold = _value_at(flat, count)
    below, equal = flat < threshold, flat == threshold
    return below | (equal & (equal.cumsum(0) <= count - below.sum()))


def _value_at(flat: Tensor, count: int) -> Tensor:
    """Return the value of the count-th smallest score."""
    # On a CPU selection is many times faster than sorting; on a GPU it uses a single block.
    return flat.sort().values[count - 1] if flat.is_cuda else flat.kthvalue(count).values


class Growing(Mask):
    """A mask changed by a growth schedule (`limbeck.compress.mask_schedule`)."""

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


def cubic(progress: float, *, begin: float, end: float) -> float:
    r"""Compute the cubic schedule's fraction of the final sparsity: fast first, then slow.

    $$1 - (1 - t)^3, \qquad t = \frac{p - \text{begin}}{\text{end} - \text{begin}} \in [0, 1]$$

    Hence $s_t = s_i + (s_f - s_i)(1 - (1-t)^3) = s_f + (s_i - s_f)(1-t)^3$.

    Example:
        >>> [cubic(progress, begin=0.25, end=0.75) for progress in (0.0, 0.5, 0.75, 1.0)]
        [0.0, 0.875, 1.0, 1.0]

    Source: Zhu and Gupta 2017 (arXiv:1710.01878).
    """
    if progress >= end:
        return 1.0
    return 1 - (1 - max(progress - begin, 0.0) / (end - begin)) ** 3


def grow(
    weights: Mapping[str, Sequence[ParametrizationList]],
    *,
    score: str,
    begin: float,
    end: float,
    **settings: Any,
) -> None:
    """Register masks that grow together during training.

    Args:
        weights: The masked weights of each layer by path.
        score: The pruning score: `magnitude`, `distance` or `gradient`.
        begin: The progress at which masks begin to grow.
        end: The progress at which they are complete.
        settings: The settings of `Ranked` or of `Soft`.
    """
    every = list(chain.from_iterable(weights.values()))
    for weight in every:
        mask = mask_of(weight)
        if mask is None:
            raise ValueError("a weight without a mask cannot have one that grows")
        put(weight, SCORES[score](mask.mask, weight.original))
    if "tau" in settings:
        plan: Plan = SoftMask(every, begin=begin, end=end, **settings)
    else:
        groups = [every] if settings.pop("scope") == "global" else list(weights.values())
        plan = RankedMask(groups, begin=begin, end=end, **settings)
    cast("Growing", mask_of(every[0])).add_module("plan", plan)


class RankedMask(nn.Module):
    """Gradual pruning: masks a rising share of the lowest-scoring weights of each group.

    Args:
        groups: Sets of weights that are ranked together.
        sparsity: The final sparsity of each group.
        initial: The initial sparsity.
        begin: The progress at which the masks begin to grow.
        end: The progress at which they are complete.
    """

    progress: Tensor

    def __init__(
        self,
        groups: Sequence[Sequence[ParametrizationList]],
        *,
        sparsity: float,
        begin: float,
        end: float,
        initial: float = 0.0,
    ) -> None:
        super().__init__()
        self._groups = [list(group) for group in groups]
        self._initial, self._final = initial, sparsity
        self._begin, self._end = begin, end
        self.register_buffer("progress", torch.zeros((), device=groups[0][0].original.device))

    def sparsity(self, progress: float) -> float:
        """Return the sparsity at a progress."""
        way = cubic(progress, begin=self._begin, end=self._end)
        return self._initial + (self._final - self._initial) * way if way < 1 else self._final

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        """Update the masks for a progress; locked entries stay masked."""
        self.progress.fill_(progress)
        if progress < self._begin:
            return
        for group in self._groups:
            self._mask(group, self.sparsity(progress))

    def finish(self) -> None:
        """Set the masks to the final sparsity if training did not reach it.

        Raises:
            CompressError: The weights have no scores yet.
        """
        if not any(_score(weight).any() for group in self._groups for weight in group):
            raise CompressError(
                "nothing is pruned: every weight counts alike, since there was no training in "
                "which they could move. Train after pruning by movement (`finetune`)."
            )
        for group in self._groups:
            total = sum(weight.original.numel() for weight in group)
            if _masked(group) != count_of(self._final, total):
                self._mask(group, self._final)

    @staticmethod
    def _mask(group: list[ParametrizationList], sparsity: float) -> None:
        locked = [_growing(weight).locked for weight in group]
        total = sum(lock.numel() for lock in locked)
        count = max(count_of(sparsity, total), int(sum(lock.sum() for lock in locked)))
        pairs = zip(group, locked, strict=True)
        scores = [_score(weight).masked_fill(lock, -torch.inf) for weight, lock in pairs]
        for weight, least in zip(group, smallest(scores, count), strict=True):
            _growing(weight).mask.copy_(~least)


class SoftMask(nn.Module):
    r"""Soft movement pruning: masks weights whose score is below a threshold, with a score penalty.

    $$m = [\sigma(g s) > \tau_t], \qquad R = \lambda_t \, \mathrm{mean}\, \sigma(g s)$$

    τ and λ rise from 0 along the cubic schedule. The training loop adds R to the loss once per
    optimiser step (`limbeck.compress.masked_weights.penalty`). The final sparsity is not set
    directly.

    Args:
        weights: The weights, all with learned scores.
        tau: The final threshold τ.
        penalty: The final weight λ of the penalty.
        gain: g, the factor of the scores' learning rate.
        begin: The progress at which threshold and penalty begin to rise.
        end: The progress at which they reach their final values.

    Source: Sanh, Wolf and Rush 2020 (arXiv:2005.07683), soft movement pruning.
    """

    progress: Tensor

    def __init__(
        self,
        weights: Sequence[ParametrizationList],
        *,
        tau: float,
        penalty: float,
        gain: float,
        begin: float,
        end: float,
    ) -> None:
        super().__init__()
        self._weights = list(weights)
        self._tau, self._penalty, self._gain = tau, penalty, gain
        self._begin, self._end = begin, end
        self.register_buffer("progress", torch.zeros((), device=weights[0].original.device))

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        """Mask weights below the threshold at a progress; locked entries stay masked."""
        self.progress.fill_(progress)
        threshold = self._tau * cubic(progress, begin=self._begin, end=self._end)
        for mask in self._masks():
            above = torch.sigmoid(self._gain * mask.scores) > threshold
            mask.mask.copy_(above.view_as(mask.base) & mask.base)

    def penalty(self) -> Tensor:
        """Compute R, a scalar with a gradient for the scores."""
        way = cubic(self.progress.item(), begin=self._begin, end=self._end)
        shares = [torch.sigmoid(self._gain * m.scores) * m.base.flatten() for m in self._masks()]
        free = sum(mask.base.sum() for mask in self._masks())
        return self._penalty * way * torch.stack([share.sum() for share in shares]).sum() / free

    def finish(self) -> None:
        """Check the final masks, without changing them: the sparsity is a result of training.

        Raises:
            CompressError: No weight was newly masked, or all weights are masked.
        """
        if all(torch.equal(mask.mask, mask.base) for mask in self._masks()):
            raise CompressError(
                "nothing is pruned: no score fell below the soft threshold. Raise `penalty`, "
                "`gain` or `tau`, or train for longer."
            )
        if not any(mask.mask.any() for mask in self._masks()):
            raise CompressError(
                "no weight is left: all scores fell below the soft threshold. Lower `penalty`, "
                "`gain` or `tau`, or train for less."
            )

    def _masks(self) -> Iterator[ByGradient]:
        for weight in self._weights:
            yield cast("ByGradient", mask_of(weight))


Plan = RankedMask | SoftMask


def _growing(weight: ParametrizationList) -> Growing:
    return cast("Growing", mask_of(weight))


def _score(weight: ParametrizationList) -> Tensor:
    return _growing(weight).score(weight.original.detach())


def _masked(group: Sequence[ParametrizationList]) -> int:
    """Count a group's zeros."""
    return int(sum((~_growing(weight).mask).sum() for weight in group))
