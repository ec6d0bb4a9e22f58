"""The structure of a model without some of its layers."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import nn

COUNT = "num_hidden_layers"
"""The name by which a transformers model's configuration knows how many layers there are."""


def apply(model: nn.Module, *, layers: Iterable[str]) -> None:
    """Take layers out: of lists of modules (`nn.ModuleList`) and sequences (`nn.Sequential`).

    In a sequence an `nn.Identity` takes the layer's place, so that paths stay as they are. Code
    that goes through a list calls its entries in its own way, so that there the entry goes: **the
    paths of later layers change**, `layer.3` becomes `layer.2` if one before it was dropped. A
    transformers model's own copy of its configuration then counts the layers that are left.

    Args:
        model: Is changed in place.
        layers: Paths, as they are before anything is dropped.

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
    # An inner list is shortened first: shortening the outer one changes its path.
    for path in sorted(lists, key=len, reverse=True):
        _shorten(model, path, lists[path])


def _shorten(model: nn.Module, path: str, dropped: set[int]) -> None:
    holder = model.get_submodule(path)
    if not isinstance(holder, nn.ModuleList):
        raise TypeError(f"{path} is no list of modules")
    before = len(holder)
    kept = [layer for place, layer in enumerate(holder) if place not in dropped]
    for place in reversed(range(before)):
        del holder[place]
    holder.extend(kept)
    _recount(model, path, before, len(kept))


def _recount(model: nn.Module, path: str, before: int, after: int) -> None:
    """Correct the configuration of every module that holds one, the same one for all of them.

    It is a copy: other models may have been built from the original.
    """
    copies: dict[int, Any] = {}
    for part in model.modules():
        config = vars(part).get("config")
        if getattr(config, COUNT, None) == before:
            if id(config) not in copies:
                copies[id(config)] = copy.deepcopy(config)
                setattr(copies[id(config)], COUNT, after)
            part.config = copies[id(config)]
