"""Deterministic selection of an exact number of lowest-scoring weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from limbeck.compress.changes.masks import Mask, mask_of, put
from limbeck.compress.method import CompressError
from limbeck.core.tensors import precise


def count_of(sparsity: float, weights: int) -> int:
    """Return the number of weights to mask, rounded to the nearest integer."""
    return round(sparsity * weights)


def smallest(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Select the smallest scores over all tensors.

    Returns:
        Boolean tensors in the shapes of the scores, with exactly `count` true. Ties are broken by
        order, earlier first.
    """
    flat = precise(torch.cat([score.flatten() for score in scores]))
    selected = torch.zeros_like(flat, dtype=torch.bool)
    if count:
        # On a CPU selection is many times faster than sorting; on a GPU it uses a single block.
        on_gpu = flat.is_cuda
        threshold = flat.sort().values[count - 1] if on_gpu else flat.kthvalue(count).values
        below, equal = flat < threshold, flat == threshold
        selected = below | (equal & (equal.cumsum(0) <= count - below.sum()))
    parts = selected.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


class Growing(Mask):
    """A mask changed by a growth schedule: `RankedMask` or `SoftMask`."""

    @abstractmethod
    def score(self, weight: Tensor) -> Tensor:
        """Compute the score of each weight, in the weight's shape; the lowest are masked first."""

    @property
    def locked(self) -> Tensor:
        """Return where the mask stays regardless of the scores, in the weight's shape."""
        return ~self.mask


class ByMagnitude(Growing):
    """Magnitude score, |w|; masked weights stay masked.

    Source: Han et al. 2015; gradual: Zhu and Gupta 2017 (arXiv:1710.01878).
    """

    def __init__(self, mask: Tensor, weight: Tensor) -> None:
        super().__init__(mask)

    def score(self, weight: Tensor) -> Tensor:
        """Compute |w|."""
        return weight.abs()


class ByDistance(Growing):
    """Distance score, |w − w₀| from the start of training; masked weights stay masked."""

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
    stored flat, so that weight decay on matrices does not apply to them. Weights of the initial
    mask never return.

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
    """Register masks that grow together during training."""
    flat = list(chain.from_iterable(weights.values()))
    for weight in flat:
        mask = mask_of(weight)
        if mask is None:
            raise ValueError("a weight without a mask cannot have one that grows")
        put(weight, SCORES[score](mask.mask, weight.original))
    if "tau" in settings:
        plan: Plan = SoftMask(flat, begin=begin, end=end, **settings)
    else:
        groups = [flat] if settings.pop("scope") == "global" else list(weights.values())
        plan = RankedMask(groups, begin=begin, end=end, **settings)
    _growing(flat[0]).add_module("plan", plan)


class _Schedule(nn.Module):
    """The progress of a training, and the cubic schedule between `begin` and `end`."""

    progress: Tensor

    def __init__(self, weight: ParametrizationList, *, begin: float, end: float) -> None:
        super().__init__()
        self._begin, self._end = begin, end
        self.register_buffer("progress", torch.zeros((), device=weight.original.device))

    def _share(self, progress: float) -> float:
        return cubic(progress, begin=self._begin, end=self._end)


class RankedMask(_Schedule):
    """Gradual pruning: masks a rising share of the lowest-scoring weights of each group.

    The weights of a group are ranked together. The sparsity of each group rises from `initial` to
    `sparsity` between the progress `begin` and `end` (`cubic`).
    """

    def __init__(
        self,
        groups: Sequence[Sequence[ParametrizationList]],
        *,
        sparsity: float,
        begin: float,
        end: float,
        initial: float = 0.0,
    ) -> None:
        super().__init__(groups[0][0], begin=begin, end=end)
        self._groups = [list(group) for group in groups]
        self._initial, self._final = initial, sparsity

    def sparsity(self, progress: float) -> float:
        """Return the sparsity at a progress."""
        share = self._share(progress)
        return self._initial + (self._final - self._initial) * share if share < 1 else self._final

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        """Update the masks for a progress; locked entries stay masked."""
        self.progress.fill_(progress)
        if progress >= self._begin:
            for group in self._groups:
                self._mask(group, self.sparsity(progress))

    def finish(self) -> None:
        """Set the masks to the final sparsity if training did not reach it.

        Raises:
            CompressError: The weights have no scores yet.
        """
        if not any(_score(weight).any() for group in self._groups for weight in group):
            raise CompressError(
                "nothing is pruned: all scores are equal, since there was no training. Train after "
                "pruning by movement (`finetune`)."
            )
        for group in self._groups:
            masks = [_growing(weight).mask for weight in group]
            zeros = int(sum((~mask).sum() for mask in masks))
            if zeros != count_of(self._final, sum(mask.numel() for mask in masks)):
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


class SoftMask(_Schedule):
    r"""Soft movement pruning: masks weights with scores below a threshold, and penalises scores.

    $$m = [\sigma(g s) > \tau_t], \qquad R = \lambda_t \, \mathrm{mean}\, \sigma(g s)$$

    τ and λ rise from 0 to `tau` and `penalty` along the cubic schedule; g is the `gain`. The
    training loop adds R to the loss once per optimiser step (`masked_weights.penalty`). The final
    sparsity is not set directly. All weights have learned scores (`ByGradient`).

    Source: Sanh, Wolf and Rush 2020 (arXiv:2005.07683), soft movement pruning.
    """

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
        super().__init__(weights[0], begin=begin, end=end)
        self._weights = list(weights)
        self._tau, self._penalty, self._gain = tau, penalty, gain

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        """Mask weights below the threshold at a progress; locked entries stay masked."""
        self.progress.fill_(progress)
        threshold = self._tau * self._share(progress)
        for mask in self._masks():
            above = torch.sigmoid(self._gain * mask.scores) > threshold
            mask.mask.copy_(above.view_as(mask.base) & mask.base)

    def penalty(self) -> Tensor:
        """Compute R, a scalar with a gradient for the scores."""
        masks = self._masks()
        shares = [torch.sigmoid(self._gain * mask.scores) * mask.base.flatten() for mask in masks]
        free = sum(mask.base.sum() for mask in masks)
        total = torch.stack([share.sum() for share in shares]).sum()
        return self._penalty * self._share(self.progress.item()) * total / free

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

    def _masks(self) -> list[ByGradient]:
        return [cast("ByGradient", mask_of(weight)) for weight in self._weights]


Plan = RankedMask | SoftMask


def _growing(weight: ParametrizationList) -> Growing:
    return cast("Growing", mask_of(weight))


def _score(weight: ParametrizationList) -> Tensor:
    return _growing(weight).score(weight.original.detach())
