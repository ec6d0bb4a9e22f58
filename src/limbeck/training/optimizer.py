"""The optimiser, and the learning rate as a pure function of progress."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from limbeck.training.settings import Training


def build_optimizer(modules: Mapping[str, nn.Module], settings: Training) -> torch.optim.Optimizer:
    """Make the optimiser over all parameters that train.

    Weight decay falls on matrices and kernels only: biases and the scales of norms (one axis) are left alone.
    """
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0
        return torch.optim.SGD(
            groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=nesterov
        )
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def rate(progress: float, settings: Training) -> float:
    """Give the learning rate at a progress in [0, 1]: a linear warm-up, then the decay.

    Example:
        >>> settings = Training(epochs=1, learning_rate=1.0, warmup=0.5, decay="linear")
        >>> [rate(progress, settings) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    peak = settings.learning_rate
    if progress < settings.warmup:
        return peak * progress / settings.warmup
    rest = (progress - settings.warmup) / (1 - settings.warmup) if settings.warmup < 1 else 0.0
    match settings.decay:
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * rest))
        case "linear":
            return peak * (1 - rest)
        case "constant":
            return peak
