"""Removal of parametrizations from a single layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from torch import Tensor


def remove(layer: nn.Module, name: str, *, keep_result: bool) -> None:
    """Remove all parametrizations from a tensor of a layer; deep copies are unaffected.

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


@runtime_checkable
class Progressive(Protocol):
    """A module that is updated with the training progress before each step."""

    def advance(self, progress: float) -> None:
        """Set the training progress, from 0 at the first step to 1 at the last."""
        ...


@runtime_checkable
class Penalizing(Protocol):
    """A module that adds a penalty to the loss of every step, such as its density."""

    def penalty(self) -> Tensor:
        """Return the penalty: a scalar with a gradient."""
        ...
