"""Installation and removal of fake quantisers; layer paths stay the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck import parametrized
from limbeck.compress.fake_quant.activation import InputQuantizer
from limbeck.compress.fake_quant.bias import BiasQuantizer, input_quantizer, weight_chain
from limbeck.compress.fake_quant.levels import BinaryWeight, TernaryWeight
from limbeck.compress.fake_quant.observe import Seen
from limbeck.compress.fake_quant.weight import UniformWeight
from limbeck.export.quantized import OnGrid

WEIGHTS: dict[str, Callable[..., UniformWeight | TernaryWeight | BinaryWeight]] = {
    "uniform": UniformWeight,
    "ternary": TernaryWeight,
    "binary": BinaryWeight,
}
"""Weight quantisers by the name of their grid."""


def install(
    layer: nn.Module, *, weight: Mapping[str, Any], input: Mapping[str, Any] | None
) -> None:
    """Install fresh quantisers in a layer, replacing existing ones.

    Args:
        layer: A linear layer, a convolution or an embedding; modified in place.
        weight: The `grid` by name, and its settings. It is applied after masks.
        input: The settings of the input quantiser; None keeps the input, and so the bias, in float.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> install(layer, weight={"grid": "uniform", "bits": 2}, input={"bits": 8})
        >>> layer.input_quantizer.high
        255
    """
    remove(layer)
    settings = dict(weight)
    dense = cast("Tensor", layer.weight)
    quantizer = WEIGHTS[settings.pop("grid")](dense.shape, **settings).to(dense.device)
    parametrize.register_parametrization(layer, "weight", quantizer)
    if input is None:
        return
    layer.add_module("input_quantizer", InputQuantizer(**input).to(dense.device))
    layer.register_forward_pre_hook(_round_input, with_kwargs=True)
    if layer.bias is not None:
        parametrize.register_parametrization(layer, "bias", BiasQuantizer(layer))


@torch.no_grad()
def fit(layer: nn.Module, seen: Seen | None) -> None:
    """Initialise a layer's quantisers from its weight and from statistics of its input."""
    chain = weight_chain(layer)
    tensor = chain.original
    for link in chain:
        if isinstance(link, UniformWeight | TernaryWeight | BinaryWeight):
            link.fit(tensor)
        tensor = link(tensor)
    if seen is not None:
        input_quantizer(layer).fit(seen)


def bias_fits(layer: nn.Module) -> bool:
    """Return whether a layer's bias, if quantised, fits the int32 range."""
    if not parametrize.is_parametrized(layer, "bias"):
        return True
    chain = layer.get_submodule("parametrizations.bias")
    return not any(
        isinstance(link, BiasQuantizer) and link.overflows(cast("Tensor", chain.original))
        for link in chain.children()
    )


def remove(layer: nn.Module) -> None:
    """Remove a layer's quantisers; masks and the float weight stay."""
    masks: dict[str, list[nn.Module]] = {}
    for name in ("bias", "weight"):
        if parametrize.is_parametrized(layer, name):
            chain = layer.get_submodule(f"parametrizations.{name}")
            masks[name] = [link for link in chain.children() if not isinstance(link, OnGrid)]
            parametrized.remove(layer, name, keep_result=False)
    # Only now: a parametrization gives a bare layer a class that no copy of the layer shares.
    for name, links in masks.items():
        for link in links:
            parametrize.register_parametrization(layer, name, link)
    if "input_quantizer" not in dict(layer.named_children()):
        return
    del layer.input_quantizer
    hooks = layer._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if hook is _round_input]:
        del hooks[key]
        del layer._forward_pre_hooks_with_kwargs[key]


def _round_input(
    layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    rounds = input_quantizer(layer)
    if args:
        return (rounds(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "input": rounds(kwargs["input"])}
