"""Gradient attacks by foolbox: FGSM, projected gradient descent (PGD), DeepFool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.imports import require
from limbeck.evaluate.robustness.images import BATCH, Floats, PixelModel, Shown

Labels = NDArray[np.int64]


def fgsm(model: PixelModel, pixels: Floats, labels: Labels, *, eps: float) -> Floats:
    r"""Apply the fast gradient sign method (FGSM): one step along the sign of the gradient.

    $$x' = \mathrm{clip}(x + \epsilon\,\mathrm{sign}\,\nabla_x \mathrm{CE}(f(x), y))$$

    Args:
        model: A model of pixels.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        eps: The L-infinity perturbation size, ε.

    Raises:
        InputError: foolbox is not installed.

    Source: Goodfellow et al., ICLR 2015 (arXiv:1412.6572).
    """
    attack = _foolbox().attacks.LinfFastGradientAttack()
    return _run(attack, model, pixels, labels, size=eps, seed=0)


def pgd(
    model: PixelModel,
    pixels: Floats,
    labels: Labels,
    *,
    eps: float,
    steps: int = 10,
    seed: int = 0,
) -> Floats:
    """Apply projected gradient descent (PGD) on cross-entropy, from a random start.

    After each step the image is projected onto the L-infinity ball of `eps` around the original. A
    step is 2.5 times the size divided by the number of steps, as Madry's.

    Args:
        model: A model of pixels.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        eps: The L-infinity perturbation size.
        steps: Number of steps.
        seed: Seed of the start.

    Raises:
        InputError: foolbox is not installed.

    Source: Madry et al., ICLR 2018 (arXiv:1706.06083).
    """
    attack = _foolbox().attacks.LinfPGD(rel_stepsize=2.5 / steps, steps=steps, random_start=True)
    return _run(attack, model, pixels, labels, size=eps, seed=seed)


def deepfool(
    model: PixelModel, pixels: Floats, labels: Labels, *, steps: int = 20, candidates: int = 4
) -> Floats:
    """Apply DeepFool: approximate the minimal L2 perturbation by linearized boundaries.

    Args:
        model: A model of pixels.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        steps: Largest number of steps.
        candidates: Number of the likeliest classes considered, the label's included.

    Raises:
        InputError: foolbox is not installed.

    Source: Moosavi-Dezfooli et al., CVPR 2016 (arXiv:1511.04599).
    """
    attack = _foolbox().attacks.L2DeepFoolAttack(steps=steps, candidates=candidates)
    return _run(attack, model, pixels, labels, size=None, seed=0)


def zero_gradients(model: PixelModel, pixels: Floats, labels: Labels) -> NDArray[np.bool_]:
    """Return for which images cross-entropy has no gradient at all in float32, `[n]`.

    FGSM leaves such an image unchanged, and PGD leaves it at its random start.
    """

    def zero(part: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        part.requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(part), right, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, part)
        return (gradient == 0).flatten(1).all(dim=1)

    return by_batches(zero, model, pixels, labels)


def by_batches(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    model: PixelModel,
    pixels: Floats,
    labels: Labels,
) -> NDArray[Any]:
    """Apply a function of images and labels on the model's device, in batches."""
    parts = [
        function(
            torch.tensor(pixels[first : first + BATCH], device=model.device),
            torch.tensor(labels[first : first + BATCH], device=model.device),
        )
        for first in range(0, len(pixels), BATCH)
    ]
    return np.concatenate([part.detach().cpu().numpy() for part in parts])


def _foolbox() -> Any:
    return require("foolbox", extra="evaluate")


def _run(
    attack: Any, model: PixelModel, pixels: Floats, labels: Labels, *, size: float | None, seed: int
) -> Floats:
    # Without a device foolbox uses the first GPU.
    seen = _foolbox().PyTorchModel(model, bounds=(0, 1), device=model.device)

    def found(part: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        _, clipped, _ = attack(seen, part, right, epsilons=size)
        return torch.as_tensor(clipped)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return by_batches(found, model, pixels, labels)


def margin_pgd(
    model: PixelModel,
    pixels: Floats,
    labels: NDArray[np.int64],
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
    size and decays to zero; the image with the largest margin on the way is returned.

    Args:
        model: A model of pixels.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        eps: The L-infinity perturbation size, ε.
        steps: Number of steps.
        restart: With 0, j is the likeliest wrong class at each step, and the start is the image.
            With r, j is the r-th likeliest wrong class of the image, and the start is random.
        seed: Seed of the random start.

    Source: Carlini & Wagner, IEEE S&P 2017 (arXiv:1608.04644), for the loss; Gowal et al. 2019
        (arXiv:1910.09338), for one target class per restart.
    """
    random = torch.Generator(model.device).manual_seed(seed + restart)

    def found(part: Tensor, right: Tensor) -> Tensor:
        low, high = (part - eps).clamp(min=0), (part + eps).clamp(max=1)
        if restart == 0:
            return _climb(model, part, low, high, right, None, size=eps, steps=steps)
        share = torch.rand(part.shape, generator=random, device=part.device)
        ranked = wrong_classes(model, part, right)
        target = ranked[:, min(restart, ranked.shape[1]) - 1]
        start = low + share * (high - low)
        return _climb(model, start, low, high, right, target, size=eps, steps=steps)

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


FIRST_SHARE = 0.8
"""Share of the image that the first squares cover."""

HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which the squares' area is halved."""


def square(
    shown: Shown,
    pixels: Floats,
    labels: NDArray[np.int64],
    *,
    eps: float,
    queries: int = 50,
    seed: int = 0,
) -> Floats:
    """Apply the Square attack: keep random square perturbations that lower the label's margin.

    It begins with vertical stripes; each query sets a square of each channel to the lowest or the
    highest value allowed. An image that is misclassified gets no further queries.

    Args:
        shown: Computes the model's logits from pixels.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        eps: The L-infinity perturbation size.
        queries: Largest number of queries per image.
        seed: Seed of stripes and squares.

    Source: Andriushchenko et al., ECCV 2020 (arXiv:1912.00049), Algorithm 2 and its schedule.
    """
    random = np.random.default_rng(seed)
    low = np.clip(pixels - eps, 0, 1).astype(np.float32)
    high = np.clip(pixels + eps, 0, 1).astype(np.float32)
    count, channels, _, width = pixels.shape
    if count == 0:
        return pixels
    stripes = random.random((count, channels, 1, width)) < 0.5
    best = np.where(stripes, low, high)
    margins = _margins(shown(best), labels)
    for query in range(1, queries):
        (right,) = np.nonzero(margins > 0)
        if len(right) == 0:
            break
        tried = best[right]
        side = _side(query / queries, pixels.shape[2:])
        for one, row in zip(tried, right, strict=True):
            _place(one, low[row], high[row], side, random)
        found = _margins(shown(tried), labels[right])
        better = found < margins[right]
        best[right[better]] = tried[better]
        margins[right[better]] = found[better]
    return best


def _place(
    picture: Floats, low: Floats, high: Floats, side: int, random: np.random.Generator
) -> None:
    channels, height, width = picture.shape
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    window = (slice(None), slice(top, top + side), slice(left, left + side))
    down = random.random((channels, 1, 1)) < 0.5
    picture[window] = np.where(down, low[window], high[window])


def _side(progress: float, space: tuple[int, ...]) -> int:
    """Compute the side of a square, in pixels."""
    halved = sum(progress > share for share in HALVINGS)
    area = FIRST_SHARE / 2**halved * np.prod(space)
    return min(max(round(float(area) ** 0.5), 1), *space)


def _margins(logits: Floats, labels: NDArray[np.int64]) -> Floats:
    """Compute the margin of the label's logit over the largest other logit, `[n]`."""
    rows = np.arange(len(labels))
    wrong = logits.astype(np.float64)
    right = wrong[rows, labels]
    wrong[rows, labels] = -np.inf
    return (right - wrong.max(axis=1)).astype(np.float32)
