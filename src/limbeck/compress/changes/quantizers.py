"""Fake quantisers, as a structural change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.compress.changes import fold as folds
from limbeck.compress.fake_quant_install import install

if TYPE_CHECKING:
    from torch import nn


def apply(
    model: nn.Module, *, fold: Sequence[Sequence[str]], layers: Mapping[str, Mapping[str, Any]]
) -> None:
    """Fold batch norms, and install fresh quantisers in layers, replacing existing ones.

    Args:
        model: Modified in place.
        fold: The pairs of layer and batch norm, as `changes.fold` takes them.
        layers: Settings of the `weight` quantiser and of the `input` quantiser (or None) by path.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 6))
        >>> apply(net, fold=[], layers={"0": {"weight": {"grid": "binary"}, "input": None}})
        >>> net[0].weight.unique(dim=1).shape[1] <= 8
        True
    """
    folds.apply(model, pairs=fold)
    for path, given in layers.items():
        install(model.get_submodule(path), weight=given["weight"], input=given["input"])
