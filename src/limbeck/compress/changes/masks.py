"""Weight masks as a structural change: the masked tensors, and their growth schedule if any.

Fixed masks need only torch, so that the exported model code can build them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList


class Mask(nn.Module):
    r"""A parametrization that keeps masked weights at zero under any optimiser.

    $$w' = w \odot m$$

    Args:
        mask: m, true where a weight is kept, in the weight's shape.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = parametrize.register_parametrization(
        ...     layer, "weight", Mask(torch.tensor([[True, False]]))
        ... )
        >>> (layer.weight == 0).tolist()
        [[False, True]]
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights, with zeros where the mask is false."""
        return weight * self.mask

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return a newly assigned value unchanged; the mask is still applied in `forward`."""
        return weight


def apply(
    model: nn.Module,
    *,
    layers: Mapping[str, Sequence[str]],
    growth: Mapping[str, Any] | None = None,
) -> None:
    """Register masks that keep every weight; existing masks stay unchanged.

    Masks that still grow are fixed first: a model has one growth schedule at a time.

    Args:
        model: Modified in place.
        layers: The names of the masked tensors, such as `weight`, of each layer by path.
        growth: The growth of the masks during training (`limbeck.compress.mask_schedule.grow`);
            None if they are fixed.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2))
        >>> apply(net, layers={"0": ["weight"]})
        >>> [name for name in net.state_dict() if "mask" in name]
        ['0.parametrizations.weight.0.mask']
    """
    settle(model)
    weights = {
        path: [_masked(model.get_submodule(path), name) for name in names]
        for path, names in layers.items()
    }
    if growth is not None:
        from limbeck.compress.mask_schedule import grow

        grow(weights, **growth)


def mask_of(weight: ParametrizationList) -> Mask | None:
    """Return the mask among a weight's parametrizations."""
    return next((part for part in weight if isinstance(part, Mask)), None)


def put(weight: ParametrizationList, mask: Mask) -> None:
    """Replace the mask among a weight's parametrizations."""
    place = next(place for place, part in enumerate(weight) if isinstance(part, Mask))
    weight[place] = mask


def settle(model: nn.Module) -> None:
    """Fix every growing mask in its present state."""
    for weight in list(model.modules()):
        if not isinstance(weight, ParametrizationList):
            continue
        mask = mask_of(weight)
        if mask is not None and type(mask) is not Mask:
            put(weight, Mask(mask.mask))
            clear(weight)


@torch.no_grad()
def clear(weight: ParametrizationList) -> None:
    """Zero the masked entries of the original weight, so that saved weights hold the zeros too."""
    mask = mask_of(weight)
    if mask is not None:
        # Not a product: it has zeros of both signs, which sparse storage distinguishes.
        weight.original.masked_fill_(~mask.mask, 0.0)


def _masked(layer: nn.Module, name: str) -> ParametrizationList:
    """Return a weight's parametrizations, which include a mask."""
    if parametrize.is_parametrized(layer, name):
        found = cast("ParametrizationList", layer.parametrizations[name])  # type: ignore[index]
        if mask_of(found) is not None:
            return found
    weight = getattr(layer, name)
    whole = torch.ones_like(weight, dtype=torch.bool, requires_grad=False)
    parametrize.register_parametrization(layer, name, Mask(whole))
    if isinstance(layer, nn.RNNBase):
        type(layer).__deepcopy__ = _copy_of_recurrent  # type: ignore[attr-defined]
    return cast("ParametrizationList", layer.parametrizations[name])  # type: ignore[index]


def _copy_of_recurrent(layer: nn.RNNBase, memo: dict[int, Any]) -> nn.RNNBase:
    """Copy a recurrent layer without the list of weights of its last forward pass.

    These are non-leaf tensors, which torch does not deep-copy.
    """
    made = {"_flat_weights", "_flat_weight_refs"}
    copied = layer.__new__(type(layer))
    memo[id(layer)] = copied
    kept = {name: value for name, value in vars(layer).items() if name not in made}
    vars(copied).update(copy.deepcopy(kept, memo))
    with torch.no_grad():
        copied._init_flat_weights()
    return copied
