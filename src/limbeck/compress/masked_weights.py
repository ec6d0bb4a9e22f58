"""Masked weights of a model: listing, sparsity, penalty and the end of mask growth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList

from limbeck.compress.changes.masks import Mask, mask_of, settle
from limbeck.compress.mask_schedule import Plan, SoftMask
from limbeck.compress.method import Change

KINDS: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Linear,
    nn.RNNBase,
    nn.MultiheadAttention,
)
"""Layer types whose weights are masked by default."""


def weights_of(layer: nn.Module) -> list[str]:
    """Return the names of a layer's weights that can be masked; biases are excluded.

    Example:
        >>> weights_of(nn.Linear(3, 2)), weights_of(nn.LSTM(3, 2))
        (['weight'], ['weight_ih_l0', 'weight_hh_l0'])
    """
    if isinstance(layer, nn.RNNBase):
        return [name for name in layer._flat_weights_names if name.startswith("weight")]
    if isinstance(layer, nn.MultiheadAttention):
        if layer.in_proj_weight is not None:
            return ["in_proj_weight"]
        return ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    return ["weight"]


def masked_weights(model: nn.Module) -> dict[str, dict[str, ParametrizationList]]:
    """Return the masked weights of each layer, by path and name."""
    found: dict[str, dict[str, ParametrizationList]] = {}
    for path, layer in model.named_modules():
        if parametrize.is_parametrized(layer):
            for name, chain in cast("nn.ModuleDict", layer.parametrizations).items():
                weight = cast("ParametrizationList", chain)
                if mask_of(weight):
                    found.setdefault(path, {})[name] = weight
    return found


def sparsity_of(model: nn.Module) -> dict[str, float]:
    """Compute the sparsity of each layer with masks, by path."""
    counts = {path: _count(weights) for path, weights in masked_weights(model).items()}
    return {path: zeros / total for path, (zeros, total) in counts.items()}


def total_sparsity(model: nn.Module) -> float:
    """Compute the sparsity over all layers with masks."""
    counts = [_count(weights) for weights in masked_weights(model).values()]
    return sum(zeros for zeros, _ in counts) / max(sum(total for _, total in counts), 1)


def penalty(model: nn.Module) -> Tensor | None:
    """Compute the penalty that soft-threshold masks add to the loss of an optimiser step.

    Returns:
        A scalar with a gradient; None if the model has no such mask.
    """
    found = [plan.penalty() for plan in model.modules() if isinstance(plan, SoftMask)]
    return torch.stack(found).sum() if found else None


def fixed(model: nn.Module) -> Change | None:
    """Fix growing masks after training.

    Incomplete masks, where training stopped early or an earlier epoch's weights were kept, are
    completed; those of a finished training are kept unchanged.

    Returns:
        The structural change; None if no mask was growing.

    Raises:
        CompressError: Training produced no scores, or masked no weight.

    Example:
        >>> fixed(nn.Linear(3, 2)) is None
        True
    """
    plans = [plan for plan in model.modules() if isinstance(plan, Plan)]
    if not plans:
        return None
    for plan in plans:
        plan.finish()
    settle(model)
    layers = {path: list(weights) for path, weights in masked_weights(model).items()}
    return {"kind": "masks", "layers": layers}


def _count(weights: Mapping[str, ParametrizationList]) -> tuple[int, int]:
    """Count a layer's masked weights, and all weights with a mask."""
    masks = [cast("Mask", mask_of(weight)).mask for weight in weights.values()]
    total = sum(mask.numel() for mask in masks)
    return total - sum(int(mask.sum()) for mask in masks), total
