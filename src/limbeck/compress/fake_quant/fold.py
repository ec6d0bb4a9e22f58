"""Batch norm folding into the preceding layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.calls import first_batch
from limbeck.compress.changes import fold as structure
from limbeck.compress.method import Work
from limbeck.evaluate.flops import evaluating

Pair: TypeAlias = tuple[str, str]

TOLERANCE = 1e-5
"""Allowed relative change of the outputs after folding a batch norm."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def fold(model: nn.Module, paths: Iterable[str], work: Work) -> list[Pair]:
    r"""Fold batch norms into the layers directly before them, in place.

    $$\hat w = w \, \gamma / \sqrt{\sigma^2 + \epsilon} \qquad
    \hat b = (b - \mu) \, \gamma / \sqrt{\sigma^2 + \epsilon} + \beta$$

    A pair is skipped where the model's outputs would change: another operation reads the
    intermediate tensor, or a mask does not allow scaling.

    Args:
        model: Modified in place.
        paths: The layers into which a batch norm may be folded.
        work: The sample and the forward function.

    Returns:
        The folded pairs: the paths of the layer and of its batch norm, now an identity.

    Source: Jacob et al. 2018 (arXiv:1712.05877), section 3.2.
    """
    found = _pairs(model, set(paths), work)
    if not found:
        return []
    before = _answers(model, work)
    undo = [_folded(model, pair) for pair in found]
    if _alike(before, _answers(model, work)):
        return found
    for back in reversed(undo):
        back()
    return [pair for pair in found if _alone(model, pair, work)]


def _alone(model: nn.Module, pair: Pair, work: Work) -> bool:
    before = _answers(model, work)
    back = _folded(model, pair)
    alike = _alike(before, _answers(model, work))
    if not alike:
        back()
    return alike


def _answers(model: nn.Module, work: Work) -> Tensor:
    with evaluating(model), torch.no_grad():
        return work.forward(model, first_batch(work))


def _alike(before: Tensor, after: Tensor) -> bool:
    size = max(1.0, float(before.abs().max()))
    return bool((before - after).abs().max() <= TOLERANCE * size)


def _pairs(model: nn.Module, paths: set[str], work: Work) -> list[Pair]:
    """Run a model to find the batch norms whose input is exactly a layer's output."""
    answered: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()
    found: list[Pair] = []

    def after(path: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...], answer: Tensor) -> None:
            answered[path] = answer
            calls[path] += 1

        return note

    def before(path: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls[path] += 1
            found.extend((layer, path) for layer, one in answered.items() if one is args[0])

        return note

    norms = {
        path: module
        for path, module in model.named_modules()
        if type(module) in NORMS and cast("nn.BatchNorm2d", module).running_mean is not None
    }
    if not norms:
        return []
    handles = [model.get_submodule(path).register_forward_hook(after(path)) for path in paths]
    handles += [norm.register_forward_pre_hook(before(path)) for path, norm in norms.items()]
    try:
        _answers(model, work)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in found if calls[pair[0]] == calls[pair[1]] == 1]


@torch.no_grad()
def _folded(model: nn.Module, pair: Pair) -> Callable[[], None]:
    """Fold one pair, and return a function that undoes it."""
    path, norm_path = pair
    layer = cast("nn.Conv2d", model.get_submodule(path))
    norm = cast("nn.BatchNorm2d", model.get_submodule(norm_path))
    weight, bias = _own(layer, "weight"), None if layer.bias is None else _own(layer, "bias")
    kept = (weight.clone(), None if bias is None else bias.clone())
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    factor = torch.rsqrt(variance.double() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight
    shift = -mean * factor if bias is None else (bias - mean) * factor
    if norm.bias is not None:
        shift = shift + norm.bias
    structure.apply(model, pairs=[pair])
    weight.copy_(weight * factor.view(-1, *[1] * (weight.ndim - 1)))
    _own(layer, "bias").copy_(shift)

    def undo() -> None:
        model.set_submodule(norm_path, norm)
        with torch.no_grad():
            weight.copy_(kept[0])
            if kept[1] is None:
                layer.bias = None
            else:
                _own(layer, "bias").copy_(kept[1])

    return undo


def _own(layer: nn.Module, name: str) -> Tensor:
    """Return the original parameter under any parametrization."""
    if parametrize.is_parametrized(layer, name):
        name = f"parametrizations.{name}.original"
    return layer.get_parameter(name)
