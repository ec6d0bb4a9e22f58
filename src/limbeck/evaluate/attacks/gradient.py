"""Gradient attacks by foolbox: FGSM, projected gradient descent (PGD), DeepFool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.evaluate.attacks.pixels import BATCH, Floats, PixelModel
from limbeck.optional import require

Labels = NDArray[np.int64]


def fgsm(model: PixelModel, pixels: Floats, labels: Labels, *, size: float) -> Floats:
    r"""Apply the fast gradient sign method (FGSM): one step along the sign of the gradient.

    $$x' = \mathrm{clip}(x + \epsilon\,\mathrm{sign}\,\nabla_x \mathrm{CE}(f(x), y))$$

    Args:
        model: A model of pixels.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        size: The L-infinity perturbation size, ε.

    Raises:
        InputError: foolbox is not installed.

    Source: Goodfellow et al., ICLR 2015 (arXiv:1412.6572).
    """
    attack = _foolbox().attacks.LinfFastGradientAttack()
    return _run(attack, model, pixels, labels, size=size, seed=0)


def pgd(
    model: PixelModel,
    pixels: Floats,
    labels: Labels,
    *,
    size: float,
    steps: int = 10,
    seed: int = 0,
) -> Floats:
    """Apply projected gradient descent (PGD) on cross-entropy, from a random start.

    After each step the image is projected onto the L-infinity ball of `size` around the original. A
    step is 2.5 times the size divided by the number of steps, as Madry's.

    Args:
        model: A model of pixels.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        size: The L-infinity perturbation size.
        steps: Number of steps.
        seed: Seed of the start.

    Raises:
        InputError: foolbox is not installed.

    Source: Madry et al., ICLR 2018 (arXiv:1706.06083).
    """
    attack = _foolbox().attacks.LinfPGD(rel_stepsize=2.5 / steps, steps=steps, random_start=True)
    return _run(attack, model, pixels, labels, size=size, seed=seed)


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
