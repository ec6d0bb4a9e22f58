"""Which layers a method takes: those of its kinds, chosen by path or pattern."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from torch import nn


def chosen(
    model: nn.Module,
    kinds: tuple[type[nn.Module], ...],
    layers: Iterable[str] | None = None,
    skip: Iterable[str] = (),
) -> dict[str, nn.Module]:
    """Give the layers of some kinds by path: all, or those that a path or pattern names.

    Args:
        model: Where to look.
        kinds: The types of module that the method takes.
        layers: Paths or patterns such as `deep.*`; None takes all.
        skip: Paths or patterns of layers to leave alone.

    Raises:
        InputError: A path or pattern names none of the layers.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(chosen(net, (nn.Linear,), skip=["2"]))
        ['0']
        >>> chosen(net, (nn.Linear,), layers=["1"])
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: layers: got '1'; allowed: 0, 2...
    """
    fitting = {path: module for path, module in model.named_modules() if isinstance(module, kinds)}
    wanted = set(fitting) if layers is None else _named(fitting, layers, where="layers")
    left = _named(fitting, skip, where="skip")
    return {path: module for path, module in fitting.items() if path in wanted - left}


def sharing(model: nn.Module) -> set[str]:
    """Find the layers, by path, with a parameter that stands at another path too.

    Example:
        >>> from torch import nn
        >>> one = nn.Linear(2, 2)
        >>> net = nn.Sequential(one, nn.Linear(2, 2), nn.Linear(2, 2))
        >>> net[2].weight = one.weight
        >>> sorted(sharing(net))
        ['0', '2']
    """
    named = list(model.named_parameters(remove_duplicate=False))
    count = Counter(id(parameter) for _, parameter in named)
    owners = {name.rpartition(".")[0] for name, parameter in named if count[id(parameter)] > 1}
    return {owner.removesuffix(".parametrizations.weight") for owner in owners}


def _named(fitting: dict[str, nn.Module], patterns: Iterable[str], *, where: str) -> set[str]:
    found: set[str] = set()
    problems = []
    for pattern in patterns:
        matched = {path for path in fitting if fnmatchcase(path, pattern)}
        found |= matched
        if not matched:
            allowed = ", ".join(fitting) or "none: the model has no layer of this kind"
            problems.append(Problem(where, pattern, allowed, did_you_mean(pattern, fitting)))
    if problems:
        raise InputError(*problems)
    return found
