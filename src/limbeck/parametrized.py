"""Removal of parametrizations from a single layer."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize


def remove(layer: nn.Module, name: str, *, keep_result: bool) -> None:
    """Remove all parametrizations from a tensor of a layer; deep copies of the layer keep theirs.

    torch deletes the tensor's property from the layer's class, which deep copies share.

    Args:
        layer: The layer, changed in place.
        name: The tensor, such as `weight`.
        keep_result: Whether to keep the parametrizations' output, or their input.

    Example:
        >>> import copy, torch
        >>> layer = nn.Linear(2, 2)
        >>> _ = parametrize.register_parametrization(layer, "weight", nn.ReLU())
        >>> other = copy.deepcopy(layer)
        >>> remove(layer, "weight", keep_result=True)
        >>> bool((layer.weight >= 0).all()), parametrize.is_parametrized(other)
        (True, True)
    """
    shared, others = type(layer), list(layer._parameters)
    layer.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
    parametrize.remove_parametrizations(layer, name, leave_parametrized=keep_result)
    for other in others:  # as in a layer without parametrizations, where weights are first
        layer._parameters[other] = layer._parameters.pop(other)
