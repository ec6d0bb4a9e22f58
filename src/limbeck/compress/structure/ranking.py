"""What counts least: a score for each channel or head, and those with the lowest."""

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
"""What each single weight counts, in a tensor of the weight's shape."""


def squares(model: nn.Module) -> Contribution:
    """Give w², the magnitude."""
    return {weight: weight.detach().square() for weight in model.parameters()}


def first_order(model: nn.Module, work: Work) -> Iterator[Contribution]:
    r"""Give w · ∂L/∂w for each batch, the loss that a weight's absence would cost to first order.

    Source: Molchanov et al. 2019 (arXiv:1906.10771).
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for batch in work.batches():
        # cuDNN has no gradient of recurrent layers in evaluation mode.
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
    """Give each part of each layer a score, by the layer's path.

    Args:
        model: With a gradient for its weights.
        work: Gives batches and their loss, for `taylor`, and the seed, for `random`.
        importance: Squares of weights, as a share of the layer's mean; the loss's change to first
            order, over all batches; or chance.
        parts: How many parts each layer has.
        total: Adds up what a layer's weights count for each of its parts, each weight tensor's
            sum without its sign.

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
    """Choose the lowest scores, and leave every layer at least one part.

    Args:
        scores: Of each layer's parts.
        ratio: The share of all parts to choose, rounded to the nearest whole number.
        scope: That share in each layer, or wherever the lowest scores are.
        steps: The number of parts that stay in a layer becomes a multiple of this, upwards.

    Returns:
        The places of the parts; layers from which none is chosen are not listed.

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
    # The best part of each layer is not up for choice: it stays.
    ranked = sorted(
        (scores[path][place].item(), path) for path, order in orders.items() for place in order[:-1]
    )
    total = sum(len(order) for order in orders.values())
    counts = dict.fromkeys(orders, 0)
    for _, path in ranked[: _nearest(ratio * total)]:
        counts[path] += 1
    return counts
