"""Importance scores for structured pruning, and the selection of the lowest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from limbeck.compress.change import CompressError
from limbeck.compress.method import Work
from limbeck.evaluate.flops import evaluating

Scope: TypeAlias = Literal["layer", "global"]
Contribution: TypeAlias = Mapping[Tensor, Tensor]
"""Contribution of each single weight, in a tensor of the weight's shape."""


def squares(model: nn.Module) -> Contribution:
    """Return the contribution function w² (magnitude)."""
    return {weight: weight.detach().square() for weight in model.parameters()}


def first_order(model: nn.Module, work: Work) -> Iterator[Contribution]:
    r"""Yield w · ∂L/∂w for each batch, the first-order change of the loss if a weight is removed.

    Source: Molchanov et al. 2019 (arXiv:1906.10771).
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for batch in work.batches():
        # cuDNN has no backward pass of recurrent layers in evaluation mode.
        with evaluating(model), torch.backends.cudnn.flags(enabled=False):
            loss = work.loss(model, batch)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        yield {
            weight: weight.detach() * (0 if gradient is None else gradient)
            for weight, gradient in zip(weights, gradients, strict=True)
        }


def scores(
    model: nn.Module,
    work: Work,
    *,
    importance: Literal["magnitude", "taylor", "random"],
    parts: Mapping[str, int],
    total: Callable[[str, Contribution], Tensor],
) -> dict[str, Tensor]:
    """Compute the importance score of each part of each layer, by path.

    Args:
        model: The model, with gradients for its weights.
        work: The batches and their loss, for `taylor`, and the seed, for `random`.
        importance: Squared weights, as a share of the layer's mean; the first-order change of the
            loss, over all batches; or random.
        parts: The number of parts of each layer.
        total: Function that sums the contributions of a layer's weights per part, as the absolute
            value of each weight tensor's sum.

    Raises:
        CompressError: A score is not finite.
    """
    if importance == "random":
        draw = torch.Generator().manual_seed(work.seed)
        return {path: torch.rand(count, generator=draw) for path, count in parts.items()}
    passes = [squares(model)] if importance == "magnitude" else first_order(model, work)
    found = {path: torch.zeros(count, dtype=torch.float64) for path, count in parts.items()}
    for contribution in passes:
        for path in found:
            found[path] += total(path, contribution).cpu()
    for path, score in found.items():
        if not score.isfinite().all():
            raise CompressError(f"{path}: weights or gradients are not finite")
    if importance == "magnitude":
        return {path: score / score.mean().clamp_min(1e-30) for path, score in found.items()}
    return found


def weakest(
    scores: Mapping[str, Tensor],
    ratio: float,
    *,
    scope: Scope = "layer",
    steps: Mapping[str, int] | None = None,
) -> dict[str, list[int]]:
    """Select the lowest scores, leaving every layer at least one part.

    Args:
        scores: The scores of each layer's parts.
        ratio: The share of all parts to select, rounded to the nearest integer.
        scope: `layer` applies the ratio per layer; `global` ranks all layers together.
        steps: The number of remaining parts is rounded up to a multiple of this, per layer.

    Returns:
        The indices of the selected parts; layers without any are omitted.

    Example:
        >>> found = {"a": torch.tensor([3.0, 1.0, 2.0, 4.0]), "b": torch.tensor([9.0, 8.0])}
        >>> weakest(found, 0.5)
        {'a': [1, 2], 'b': [1]}
        >>> weakest(found, 0.5, scope="global")
        {'a': [0, 1, 2]}
        >>> weakest(found, 0.5, steps={"a": 3, "b": 1})
        {'a': [1], 'b': [1]}
    """
    orders = {path: score.argsort(stable=True).tolist() for path, score in scores.items()}
    if scope == "layer":
        counts = {path: _nearest(ratio * len(order)) for path, order in orders.items()}
    else:
        counts = _lowest_of_all(scores, orders, ratio)
    chosen = {}
    for path, order in orders.items():
        step = 1 if steps is None else steps[path]
        kept = max(1, len(order) - counts[path])
        kept = min(len(order), math.ceil(kept / step) * step)
        if kept < len(order):
            chosen[path] = sorted(order[: len(order) - kept])
    return chosen


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)


def _lowest_of_all(
    scores: Mapping[str, Tensor], orders: Mapping[str, list[int]], ratio: float
) -> dict[str, int]:
    # The best part of each layer always stays.
    ranked = sorted(
        (scores[path][place].item(), path) for path, order in orders.items() for place in order[:-1]
    )
    total = sum(len(order) for order in orders.values())
    counts = dict.fromkeys(orders, 0)
    for _, path in ranked[: _nearest(ratio * total)]:
        counts[path] += 1
    return counts
