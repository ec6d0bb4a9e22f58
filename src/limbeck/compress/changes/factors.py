"""Replacement of layers by low-rank pairs, as a structural change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from limbeck.compress.low_rank import pair

if TYPE_CHECKING:
    from torch import nn


def apply(model: nn.Module, *, layers: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace layers by pairs of low-rank layers with fresh weights.

    Args:
        model: Modified in place.
        layers: `rank` and `form` (see `limbeck.compress.low_rank`) of each layer by path.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 6))
        >>> apply(net, layers={"0": {"rank": 2, "form": "linear"}})
        >>> [tuple(weight.shape) for weight in net.parameters()]
        [(2, 8), (6, 2), (6,)]
    """
    for path, given in layers.items():
        model.set_submodule(path, pair(model.get_submodule(path), **given))
