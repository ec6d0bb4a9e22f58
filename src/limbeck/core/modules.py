"""Training and evaluation modes of modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class TakesSizes(Protocol):
    """A module whose tensors have the shapes of the weights that are loaded, such as trees."""

    def take_sizes(self, tensors: Mapping[str, Tensor]) -> None:
        """Resize the own tensors to the shapes of those that are loaded next, by name."""
        ...


def shared_parameters(one: nn.Module, other: nn.Module) -> list[str]:
    """Return the names of a module's parameters that are also another's.

    Example:
        >>> from torch import nn
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> shared_parameters(nn.Sequential(layer), layer)
        ['0.weight']
    """
    others = set(map(id, other.parameters()))
    return [name for name, parameter in one.named_parameters() if id(parameter) in others]


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Restore the mode of every submodule after the block; `model.train()` would equalise them.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Dropout().eval(), nn.Dropout())
        >>> with modes_restored(model):
        ...     _ = model.eval()
        >>> [part.training for part in model]
        [False, True]
    """
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set every submodule to evaluation mode within the block, and restore each one's mode.

    Example:
        >>> from torch import nn
        >>> model = nn.Dropout()
        >>> with evaluating(model):
        ...     print(model.training)
        False
        >>> model.training
        True
    """
    with modes_restored(model):
        model.eval()
        yield


@contextmanager
def fixed_statistics(model: nn.Module) -> Iterator[None]:
    """Normalise by the batch in training mode, without an update of running statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [
        part
        for part in model.modules()
        if isinstance(part, _BatchNorm) and part.training and part.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
