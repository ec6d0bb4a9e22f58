"""Materialisation of masks and quantisers into plain weights, as a model ships."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.fake_quant_install import remove
from limbeck.compress.method import Change
from limbeck.core import parametrized


def materialize(model: nn.Module) -> None:
    """Replace masked and fake-quantised weights by their values, in place.

    Inputs are no longer fake-quantised: only the exported file computes in low precision.

    Example:
        >>> from limbeck.compress.changes.masks import apply
        >>> net = nn.Sequential(nn.Linear(3, 2))
        >>> apply(net, layers={"0": ["weight"]})
        >>> materialize(net)
        >>> sorted(net.state_dict())
        ['0.bias', '0.weight']
    """
    for layer in list(model.modules()):
        if not parametrize.is_parametrized(layer):
            continue
        # The bias first: its grid follows from the weight's.
        for name in sorted(dict(layer.get_submodule("parametrizations").named_children())):
            parametrized.remove(layer, name, keep_result=True)
        remove(layer)


def structural(changes: Iterable[Change]) -> list[Change]:
    """Return the structural changes that remain after masks and quantisers were materialised.

    Example:
        >>> structural([{"kind": "drop", "layers": ["3"]}, {"kind": "masks", "layers": {}}])
        [{'kind': 'drop', 'layers': ['3']}]
    """
    remaining: list[Change] = []
    for change in changes:
        if change["kind"] == "quantizers" and change["fold"]:
            remaining.append({"kind": "fold", "pairs": change["fold"]})
        elif change["kind"] not in ("masks", "quantizers"):
            remaining.append(change)
    return remaining
