"""Definitions and worked examples, computed by limbeck's own functions."""

from __future__ import annotations

import torch

from limbeck import losses

CAT = (10.5, 2.1, -5.3, -8.2)


def softened(*, seed: int, logits: tuple[float, ...] = CAT, temperature: float) -> dict[str, float]:
    """Compute the softmax of logits at a temperature: `p1`, `p2`, ..."""
    probabilities = torch.tensor(logits, dtype=torch.float64).div(temperature).softmax(0)
    return {f"p{number}": float(p) for number, p in enumerate(probabilities, 1)}


def high_temperature(*, seed: int, temperature: float, classes: int = 10) -> dict[str, float]:
    """Compare the gradient of the soft-target loss with that of the mean squared error of logits.

    For zero-mean logits, the gradient of T² KL tends to (z_S − z_T) / classes.

    Returns:
        `relative_error` of the two gradients, by their norms.
    """
    generator = torch.Generator().manual_seed(seed)
    zs, zt = torch.randn(2, 64, classes, generator=generator, dtype=torch.float64)
    zs, zt = zs - zs.mean(1, keepdim=True), zt - zt.mean(1, keepdim=True)
    zs.requires_grad_()
    loss = losses.soft_target_kl(zs, zt, temperature=float(temperature)).sum()
    [gradient] = torch.autograd.grad(loss, zs)
    limit = (zs.detach() - zt) / classes
    return {"relative_error": float((gradient - limit).norm() / limit.norm())}
