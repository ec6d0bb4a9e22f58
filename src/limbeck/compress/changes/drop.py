"""Removal of whole layers (depth pruning), as a structural change."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, cast

from torch import nn

COUNT = "num_hidden_layers"
"""The attribute of the number of layers in a transformers configuration."""


def apply(model: nn.Module, *, layers: Iterable[str]) -> None:
    """Remove layers from lists (`nn.ModuleList`) and sequences (`nn.Sequential`).

    In a sequence, an `nn.Identity` replaces the layer, so that paths stay the same. In a list, the
    entry is deleted, since the model's code iterates over it: **the paths of later layers change**,
    `layer.3` becomes `layer.2` if an earlier one was dropped. A transformers model's own copy of
    its configuration is updated to the remaining number of layers.

    Args:
        model: Modified in place.
        layers: Paths before any layer is removed.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> apply(net, layers=["0"])
        >>> net
        Sequential(
          (0): Identity()
          (1): Linear(in_features=2, out_features=2, bias=True)
        )
    """
    lists: dict[str, set[int]] = {}
    for path in layers:
        parent, _, name = path.rpartition(".")
        holder = model.get_submodule(parent)
        if isinstance(holder, nn.ModuleList):
            lists.setdefault(parent, set()).add(int(name))
        else:
            holder.set_submodule(name, nn.Identity())
    # Inner lists first: shortening the outer one changes their paths.
    for path in sorted(lists, key=len, reverse=True):
        holder = cast("nn.ModuleList", model.get_submodule(path))
        kept = [layer for index, layer in enumerate(holder) if index not in lists[path]]
        before = len(holder)
        del holder[:]
        holder.extend(kept)
        _recount(model, before, len(kept))


def _recount(model: nn.Module, before: int, after: int) -> None:
    """Update the number of layers in the shared configuration of the model's modules.

    It is copied first: other models may have been built from the original.
    """
    copies: dict[int, Any] = {}
    for part in model.modules():
        config = vars(part).get("config")
        if getattr(config, COUNT, None) == before:
            if id(config) not in copies:
                copies[id(config)] = copy.deepcopy(config)
                setattr(copies[id(config)], COUNT, after)
            part.config = copies[id(config)]
