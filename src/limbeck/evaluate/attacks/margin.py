"""PGD on the logit margin (Carlini-Wagner loss), which softmax saturation does not affect."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.evaluate.attacks.gradient import by_batches
from limbeck.evaluate.attacks.pixels import Floats, PixelModel


def margin_pgd(
    model: PixelModel,
    pixels: Floats,
    labels: NDArray[np.int64],
    *,
    size: float,
    steps: int = 10,
    restart: int = 0,
    seed: int = 0,
) -> Floats:
    r"""Apply PGD to maximize the logit margin of a wrong class over the label's.

    $$\max_{\lVert x' - x \rVert_\infty \le \epsilon} \; z_j(x') - z_y(x')$$

    Cross-entropy of very large logits has a zero gradient in float32; this loss has not, and its
    sign does not depend on the scale of the logits. The step size begins at twice the perturbation
    size and decays to zero; the image with the largest margin on the way is returned.

    Args:
        model: A model of pixels.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        size: The L-infinity perturbation size, ε.
        steps: Number of steps.
        restart: With 0, j is the likeliest wrong class at each step, and the start is the image.
            With r, j is the r-th likeliest wrong class of the image, and the start is random.
        seed: Seed of the random start.

    Source: Carlini & Wagner, IEEE S&P 2017 (arXiv:1608.04644), for the loss; Gowal et al. 2019
        (arXiv:1910.09338), for one target class per restart.
    """
    random = torch.Generator(model.device).manual_seed(seed + restart)

    def found(part: Tensor, right: Tensor) -> Tensor:
        low, high = (part - size).clamp(min=0), (part + size).clamp(max=1)
        if restart == 0:
            return _climb(model, part, low, high, right, None, size=size, steps=steps)
        share = torch.rand(part.shape, generator=random, device=part.device)
        ranked = wrong_classes(model, part, right)
        target = ranked[:, min(restart, ranked.shape[1]) - 1]
        start = low + share * (high - low)
        return _climb(model, start, low, high, right, target, size=size, steps=steps)

    return by_batches(found, model, pixels, labels)


def wrong_classes(model: PixelModel, pixels: Tensor, labels: Tensor) -> Tensor:
    """Rank the wrong classes of each image, the likeliest first: `[n, classes - 1]`."""
    with torch.no_grad():
        logits = model(pixels).scatter(1, labels[:, None], -torch.inf)
    return logits.argsort(dim=1, descending=True)[:, :-1]


def _climb(
    model: PixelModel,
    x: Tensor,
    low: Tensor,
    high: Tensor,
    labels: Tensor,
    target: Tensor | None,
    *,
    size: float,
    steps: int,
) -> Tensor:
    best, most = x, torch.full((len(x),), -torch.inf, device=x.device)
    for step in range(steps + 1):
        x = x.detach().requires_grad_()
        margin = _margin(model(x), labels, target)
        better = margin.detach() > most
        best = torch.where(better[:, None, None, None], x.detach(), best)
        most = torch.where(better, margin.detach(), most)
        if step < steps:
            (gradient,) = torch.autograd.grad(margin.sum(), x)
            moved = x.detach() + 2 * size * (1 - step / steps) * gradient.sign()
            x = torch.minimum(torch.maximum(moved, low), high)
    return best


def _margin(logits: Tensor, labels: Tensor, target: Tensor | None) -> Tensor:
    right = logits.gather(1, labels[:, None])[:, 0]
    if target is not None:
        return logits.gather(1, target[:, None])[:, 0] - right
    wrong = logits.scatter(1, labels[:, None], -torch.inf)
    return wrong.max(dim=1).values - right
