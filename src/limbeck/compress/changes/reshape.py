"""Resized layers after structured pruning, as a structural change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def apply(model: nn.Module, *, modules: Mapping[str, Mapping[str, Any]]) -> None:
    """Resize modules; tensors whose size changes are zero until weights are loaded.

    A parameter shared by several modules stays shared if its new shape is the same in all of them.

    Args:
        model: Modified in place.
        modules: By path, `attributes` (a whole number, or a list of them for a tuple) and `tensors`
            (the shape of each parameter and buffer), where they differ from the model's.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> first = {"attributes": {"out_features": 1}, "tensors": {"weight": [1, 4], "bias": [1]}}
        >>> second = {"attributes": {"in_features": 1}, "tensors": {"weight": [2, 1]}}
        >>> apply(net, modules={"0": first, "1": second})
        >>> net(torch.ones(1, 4)).shape, net[0].out_features
        (torch.Size([1, 2]), 1)
    """
    renewed: dict[tuple[Tensor, tuple[int, ...]], Tensor] = {}
    for path, sizes in modules.items():
        module = model.get_submodule(path)
        for name, value in sizes.get("attributes", {}).items():
            setattr(module, name, tuple(value) if isinstance(value, list) else value)
        for name, shape in sizes.get("tensors", {}).items():
            old = getattr(module, name)
            new = renewed.setdefault((old, tuple(shape)), _fresh(old, shape))
            setattr(module, name, new)


def _fresh(old: Tensor, shape: list[int]) -> Tensor:
    zeros = torch.zeros(shape, dtype=old.dtype, device=old.device)
    if isinstance(old, nn.Parameter):
        return nn.Parameter(zeros, requires_grad=old.requires_grad)
    return zeros
