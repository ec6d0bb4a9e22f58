"""Batch norm folding, as a structural change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def apply(model: nn.Module, *, pairs: Sequence[Sequence[str]]) -> None:
    """Add a bias to layers, and replace the batch norms after them by identities.

    Args:
        model: Modified in place.
        pairs: The path of the layer and the path of its batch norm, for each.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
        >>> apply(net, pairs=[["0", "1"]])
        >>> net[0].bias.shape, net[1]
        (torch.Size([8]), Identity())
    """
    for path, norm in pairs:
        layer = model.get_submodule(path)
        if layer.bias is None:
            weight = next(layer.parameters())
            layer.bias = nn.Parameter(torch.zeros(len(weight), device=weight.device))
        model.set_submodule(norm, nn.Identity())
