"""Adversarial attacks: FGSM, PGD and DeepFool by foolbox, PGD on the margin, and Square.

In all of them `pixels` are in [0, 1], `[n, channels, height, width]`; `labels` are `[n]`; `eps` is
the L-infinity perturbation size ε. Those by foolbox need the extra "evaluate".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.imports import require
from limbeck.evaluate.robustness.images import Floats, Labels, Logits, PixelModel, by_batches


def fgsm(model: PixelModel, pixels: Floats, labels: Labels, *, eps: float) -> Floats:
    r"""Apply the fast gradient sign method (FGSM): one step along the sign of the gradient.

    $$x' = \mathrm{clip}(x + \epsilon\,\mathrm{sign}\,\nabla_x \mathrm{CE}(f(x), y))$$

    Source: Goodfellow et al., ICLR 2015 (arXiv:1412.6572).
    """
    attack = _foolbox().attacks.LinfFastGradientAttack()
    return _run(attack, model, pixels, labels, eps=eps)


def pgd(
    model: PixelModel, pixels: Floats, labels: Labels, *, eps: float, steps: int = 10, seed: int = 0
) -> Floats:
    """Apply projected gradient descent (PGD) on cross-entropy, from a random start.

    After each step the image is projected onto the L-infinity ball of `eps` around the original. A
    step is 2.5 times the size divided by the number of steps, as Madry's. The seed is that of the
    start.

    Source: Madry et al., ICLR 2018 (arXiv:1706.06083).
    """
    attack = _foolbox().attacks.LinfPGD(rel_stepsize=2.5 / steps, steps=steps, random_start=True)
    return _run(attack, model, pixels, labels, eps=eps, seed=seed)


def deepfool(
    model: PixelModel, pixels: Floats, labels: Labels, *, steps: int = 20, candidates: int = 4
) -> Floats:
    """Apply DeepFool: approximate the minimal L2 perturbation by linearized boundaries.

    It makes at most `steps` steps; `candidates` is the number of the likeliest classes considered,
    the label's included.

    Source: Moosavi-Dezfooli et al., CVPR 2016 (arXiv:1511.04599).
    """
    attack = _foolbox().attacks.L2DeepFoolAttack(steps=steps, candidates=candidates)
    return _run(attack, model, pixels, labels, eps=None)


def zero_gradients(model: PixelModel, pixels: Floats, labels: Labels) -> NDArray[np.bool_]:
    """Return for which images cross-entropy has no gradient at all in float32, `[n]`.

    FGSM leaves such an image unchanged, and PGD leaves it at its random start.
    """

    def zero(x: Tensor, y: Tensor) -> Tensor:
        x.requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(x), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        return (gradient == 0).flatten(1).all(dim=1)

    return by_batches(zero, model, pixels, labels)


def _foolbox() -> Any:
    return require("foolbox", extra="evaluate")


def _run(
    attack: Any,
    model: PixelModel,
    pixels: Floats,
    labels: Labels,
    *,
    eps: float | None,
    seed: int = 0,
) -> Floats:
    # Without a device foolbox uses the first GPU.
    wrapped = _foolbox().PyTorchModel(model, bounds=(0, 1), device=model.device)

    def perturbed(x: Tensor, y: Tensor) -> Tensor:
        _, clipped, _ = attack(wrapped, x, y, epsilons=eps)
        return torch.as_tensor(clipped)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return by_batches(perturbed, model, pixels, labels)


def margin_pgd(
    model: PixelModel,
    pixels: Floats,
    labels: Labels,
    *,
    eps: float,
    steps: int = 10,
    restart: int = 0,
    seed: int = 0,
) -> Floats:
    r"""Apply PGD to maximize the logit margin of a wrong class over the label's.

    $$\max_{\lVert x' - x \rVert_\infty \le \epsilon} \; z_j(x') - z_y(x')$$

    Cross-entropy of very large logits has a zero gradient in float32; this loss has not, and its
    sign does not depend on the scale of the logits. The step size begins at twice the perturbation
    size and decays to zero; the image with the largest margin of all steps is returned.

    With `restart` 0, j is the likeliest wrong class at each step, and the start is the image. With
    `restart` r, j is the r-th likeliest wrong class of the image, and the start is random.

    Source: Carlini & Wagner, IEEE S&P 2017 (arXiv:1608.04644), for the loss; Gowal et al. 2019
        (arXiv:1910.09338), for one target class per restart.
    """
    random = torch.Generator(model.device).manual_seed(seed + restart)

    def perturbed(x: Tensor, y: Tensor) -> Tensor:
        low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
        if restart == 0:
            return _ascend(model, x, low, high, y, None, eps=eps, steps=steps)
        share = torch.rand(x.shape, generator=random, device=x.device)
        ranked = wrong_classes(model(x), y)
        target = ranked[:, min(restart, ranked.shape[1]) - 1]
        start = low + share * (high - low)
        return _ascend(model, start, low, high, y, target, eps=eps, steps=steps)

    return by_batches(perturbed, model, pixels, labels)


def wrong_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Rank the wrong classes of each image, the likeliest first: `[n, classes - 1]`."""
    wrong = logits.detach().scatter(1, labels[:, None], -torch.inf)
    return wrong.argsort(dim=1, descending=True)[:, :-1]


def _ascend(
    model: PixelModel,
    x: Tensor,
    low: Tensor,
    high: Tensor,
    labels: Tensor,
    target: Tensor | None,
    *,
    eps: float,
    steps: int,
) -> Tensor:
    """Ascend the margin within bounds, and return the inputs of the largest margin."""
    best, largest = x, torch.full((len(x),), -torch.inf, device=x.device)
    for step in range(steps + 1):
        x = x.detach().requires_grad_()
        margin = _margin(model(x), labels, target)
        better = margin.detach() > largest
        best = torch.where(better[:, None, None, None], x.detach(), best)
        largest = torch.where(better, margin.detach(), largest)
        if step < steps:
            (gradient,) = torch.autograd.grad(margin.sum(), x)
            moved = x.detach() + 2 * eps * (1 - step / steps) * gradient.sign()
            x = torch.minimum(torch.maximum(moved, low), high)
    return best


def _margin(logits: Tensor, labels: Tensor, target: Tensor | None) -> Tensor:
    """Compute the margin of the target, or else of the likeliest wrong class, over the label."""
    label = logits.gather(1, labels[:, None])[:, 0]
    if target is not None:
        return logits.gather(1, target[:, None])[:, 0] - label
    return logits.scatter(1, labels[:, None], -torch.inf).max(dim=1).values - label


FIRST_SHARE = 0.8
"""Share of the image that the first squares cover."""

HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which the squares' area is halved."""


def square(
    logits: Logits, pixels: Floats, labels: Labels, *, eps: float, queries: int = 50, seed: int = 0
) -> Floats:
    """Apply the Square attack: keep random square perturbations that lower the label's margin.

    It begins with vertical stripes; each query sets a square of each channel to the lowest or the
    highest value allowed. An image that is misclassified gets no further queries; another gets
    `queries` of them. No gradients are needed: `logits` computes the model's logits from pixels.

    Source: Andriushchenko et al., ECCV 2020 (arXiv:1912.00049), Algorithm 2 and its schedule.
    """
    random = np.random.default_rng(seed)
    low = np.clip(pixels - eps, 0, 1).astype(np.float32)
    high = np.clip(pixels + eps, 0, 1).astype(np.float32)
    count, channels, height, width = pixels.shape
    if count == 0:
        return pixels
    stripes = random.random((count, channels, 1, width)) < 0.5
    best = np.where(stripes, low, high)
    margins = _margins(logits(best), labels)
    for query in range(1, queries):
        (rows,) = np.nonzero(margins > 0)
        if len(rows) == 0:
            break
        halved = sum(query / queries > share for share in HALVINGS)
        area = FIRST_SHARE / 2**halved * np.prod((height, width))
        side = min(max(round(float(area) ** 0.5), 1), height, width)
        tried = best[rows]
        for image, row in zip(tried, rows, strict=True):
            top, left = random.integers(height - side + 1), random.integers(width - side + 1)
            window = (slice(None), slice(top, top + side), slice(left, left + side))
            down = random.random((channels, 1, 1)) < 0.5
            image[window] = np.where(down, low[row][window], high[row][window])
        margin = _margins(logits(tried), labels[rows])
        better = margin < margins[rows]
        best[rows[better]] = tried[better]
        margins[rows[better]] = margin[better]
    return best


def _margins(logits: Floats, labels: Labels) -> Floats:
    """Compute the margin of the label's logit over the largest other logit, `[n]`."""
    rows = np.arange(len(labels))
    others = logits.astype(np.float64)
    label = others[rows, labels]
    others[rows, labels] = -np.inf
    return (label - others.max(axis=1)).astype(np.float32)
