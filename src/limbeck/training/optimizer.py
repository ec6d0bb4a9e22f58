"""The optimiser, and the learning-rate schedule as a pure function of progress."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from limbeck.training.settings import Training
from limbeck.training.sharding import is_shard

if TYPE_CHECKING:
    from torch.optim.swa_utils import PARAM_LIST

# Normalisation layers whose scale may have several dimensions; that of the others has one.
_NORMS = (nn.LayerNorm, nn.RMSNorm)


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    modules: Iterable[nn.Module],
    settings: Training,
    rates: Mapping[nn.Parameter, float] | None = None,
) -> torch.optim.Optimizer:
    """Build the optimiser.

    Weight decay applies to matrices and kernels only, not to biases and normalisation scales.

    Args:
        parameters: The trainable parameters.
        modules: The modules of the parameters, searched for normalisation layers.
        settings: The training settings.
        rates: The peak learning rates of parameters with another one than that of the settings.
            Each group has its rate as a factor, `scale`.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        >>> optimizer = build_optimizer(
        ...     model.parameters(), [model], Training(epochs=1, weight_decay=0.1)
        ... )
        >>> [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
        [(0.1, 1), (0.0, 3)]
    """
    spared = {
        parameter
        for module in modules
        for norm in module.modules()
        if isinstance(norm, _NORMS)
        for parameter in norm.parameters(recurse=False)
    }
    everything, known = list(parameters), rates or {}
    by_group: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in everything:
        plain = parameter.dim() <= 1 or parameter in spared
        peak = known.get(parameter, settings.learning_rate)
        by_group.setdefault((peak, plain), []).append(parameter)
    groups = [
        {
            "params": by_group[peak, plain],
            "weight_decay": 0.0 if plain else settings.weight_decay,
            "lr": peak,
            "scale": peak / settings.learning_rate,
        }
        for peak, plain in sorted(by_group)
    ]
    shards = sum(map(is_shard, everything))
    foreach = False if shards else None
    if settings.optimizer == "adamw":
        # One fused kernel for all parameters: in a small student's step, calls are most of the
        # time.
        # A kernel for several tensors cannot mix sharded and whole ones.
        fused = shards == 0 and all(p.device.type in ("cpu", "cuda") for p in everything)
        return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused, foreach=foreach)
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        foreach=foreach,
    )


def rate(progress: float, settings: Training) -> float:
    """Compute the learning rate (LR schedule) at a progress in [0, 1]: linear warm-up, then decay.

    Example:
        >>> settings = Training(epochs=1, learning_rate=1.0, warmup_ratio=0.5, lr_schedule="linear")
        >>> [rate(progress, settings) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    peak = settings.learning_rate
    if progress < settings.warmup_ratio:
        return peak * progress / settings.warmup_ratio
    rest = (
        (progress - settings.warmup_ratio) / (1 - settings.warmup_ratio)
        if settings.warmup_ratio < 1
        else 0.0
    )
    match settings.lr_schedule:
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * rest))
        case "linear":
            return peak * (1 - rest)
        case "constant":
            return peak
        case "step":
            return peak / 10 ** sum(progress >= one for one in settings.milestones)


def moving_average(model: nn.Module, *, decay: float) -> AveragedModel:
    r"""Build the exponential moving average (EMA) of a model, updated by `update_parameters`.

    $$a_1 = w_1, \qquad a_t = d\,a_{t-1} + (1-d)\,w_t$$

    Floating-point buffers are averaged too, so that batch normalisation statistics fit the averaged
    weights; other buffers, such as counters, are copied.

    Args:
        model: The model to average.
        decay: d, in (0, 1).

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = moving_average(model, decay=0.75)
        >>> for value in (4.0, 8.0):
        ...     with torch.no_grad():
        ...         _ = model.weight.fill_(value)
        ...     average.update_parameters(model)
        >>> average.module.weight.item()
        5.0

    Source: Polyak and Juditsky 1992; the averaging of buffers as in timm.
    """
    lerp = get_ema_multi_avg_fn(decay)

    def update(averaged: PARAM_LIST, current: PARAM_LIST, steps: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            lerp(averaged, current, steps)
        else:  # torch averages counters and truncates them
            torch._foreach_copy_(averaged, current)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    average.module.requires_grad_(False)
    return average
