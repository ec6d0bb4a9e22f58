"""Selection of layers that can be factorised, with the reason for each skipped one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.layers import sharing
from limbeck.compress.low_rank.forms import Form

Convolutions: TypeAlias = Literal["channel", "spatial"]

_READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def factorizable(
    model: nn.Module, layers: Mapping[str, nn.Module], convolutions: Convolutions
) -> tuple[dict[str, Form], dict[str, str]]:
    """Sort layers into those that can be factorised and those that cannot.

    Args:
        model: The whole model, to find weights shared by several layers.
        layers: The candidate layers, by path.
        convolutions: The form for two-dimensional convolutions.

    Returns:
        The form of each layer that can, and the reason for each that cannot, by path.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Conv2d(8, 8, 3, groups=8))
        >>> factorizable(net, dict(net.named_children()), "channel")
        ({'0': 'linear'}, {'1': 'its channels are in groups'})
    """
    shared = sharing(model)
    read = {
        inside
        for path, module in model.named_modules()
        if isinstance(module, _READERS)
        for inside, _ in module.named_modules(prefix=path)
    }
    forms: dict[str, Form] = {}
    left: dict[str, str] = {}
    for path, layer in layers.items():
        form = _form(layer, convolutions)
        reason = _reason(layer, form)
        if path in shared:
            reason = "another module shares its weights"
        if path in read:
            reason = "torch's fused kernels read its weight from outside"
        if path == "":
            reason = "it is the whole model"
        if reason:
            left[path] = reason
        else:
            forms[path] = form
    return forms, left


def _form(layer: nn.Module, convolutions: Convolutions) -> Form:
    if isinstance(layer, nn.Linear):
        return "linear"
    if isinstance(layer, nn.Embedding):
        return "embedding"
    return convolutions if isinstance(layer, nn.Conv2d) else "channel"


def _reason(layer: Any, form: Form) -> str:
    kind = parametrize.type_before_parametrizations(layer)
    if kind not in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding):
        return f"its type {kind.__name__} may compute otherwise"
    if "input_quantizer" in dict(layer.named_children()):
        return "its input is quantised"
    if form == "embedding" and layer.max_norm is not None:
        return "its entries are held to a norm"
    if form in ("channel", "spatial") and layer.groups > 1:
        return "its channels are in groups"
    if form == "spatial" and set(layer.kernel_size) == {1}:
        return "a 1 × 1 kernel has no spatial form"
    return ""
