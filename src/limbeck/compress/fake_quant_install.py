"""Installation of fake quantisers in layers, and batch norm folding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.changes import fold as fold_change
from limbeck.compress.fake_quant import (
    BinaryWeight,
    InputQuantizer,
    InputStatistics,
    TernaryWeight,
    UniformWeight,
    WeightQuantizer,
    fake_quantize,
)
from limbeck.compress.method import CalibrationContext, CompressError
from limbeck.compress.trace import first_batch, predict, select_layers, shared_layers
from limbeck.core import parametrized
from limbeck.export.quantized import OnGrid

LARGEST = 2**30
"""Limit of a quantised bias, so that products can be added to it in int32."""


class BiasQuantizer(nn.Module, OnGrid):
    """A bias rounded to multiples of (input scale) · (weight scale), per channel.

    Integer kernels add it to the int32 accumulator, and ONNX Runtime rounds float biases to these
    multiples when it chooses such a kernel; training simulates the same rounding.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = (layer,)  # a tuple: the layer is the parent, and must not become a child

    @torch.no_grad()
    def grid(self, original: Tensor) -> tuple[Tensor, None]:
        """Return the scale, `[channels]` or one number; the zero point is 0."""
        (layer,) = self._layer
        tensor = weight_chain(layer).original
        for part in weight_chain(layer):
            if isinstance(part, OnGrid):
                return input_quantizer(layer).grid()[0] * part.grid(tensor)[0], None
            tensor = part(tensor)
        raise TypeError("the layer's weight is not quantised")

    def forward(self, bias: Tensor) -> Tensor:
        """Return the bias, rounded to the grid."""
        return fake_quantize(bias, self.grid(bias)[0], None, -LARGEST, LARGEST)

    def overflows(self, bias: Tensor) -> bool:
        """Return whether a bias exceeds the int32 range."""
        return bool((bias.abs() > LARGEST * self.grid(bias)[0]).any())


def weight_chain(layer: nn.Module) -> parametrize.ParametrizationList:
    """Return the parametrizations of a layer's weight."""
    return cast("parametrize.ParametrizationList", layer.get_submodule("parametrizations.weight"))


def input_quantizer(layer: nn.Module) -> InputQuantizer:
    """Return the quantiser of a layer's input."""
    return cast("InputQuantizer", layer.get_submodule("input_quantizer"))


WEIGHTS: dict[str, Callable[..., WeightQuantizer]] = {
    "uniform": UniformWeight,
    "ternary": TernaryWeight,
    "binary": BinaryWeight,
}
"""Weight quantisers by the name of their grid."""


def install(
    layer: nn.Module, *, weight: Mapping[str, Any], input: Mapping[str, Any] | None
) -> None:
    """Install fresh quantisers in a layer, replacing existing ones.

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
def fit(layer: nn.Module, statistics: InputStatistics | None) -> None:
    """Initialise a layer's quantisers from its weight and from statistics of its input."""
    tensor = weight_chain(layer).original
    for part in weight_chain(layer):
        if isinstance(part, WeightQuantizer):
            part.fit(tensor)
        tensor = part(tensor)
    if statistics is not None:
        input_quantizer(layer).fit(statistics)


def bias_fits(layer: nn.Module) -> bool:
    """Return whether a layer's bias, if quantised, fits the int32 range."""
    if not parametrize.is_parametrized(layer, "bias"):
        return True
    chain = layer.get_submodule("parametrizations.bias")
    return not any(
        isinstance(part, BiasQuantizer) and part.overflows(cast("Tensor", chain.original))
        for part in chain.children()
    )


def remove(layer: nn.Module) -> None:
    """Remove a layer's quantisers; masks and the float weight stay."""
    masks: dict[str, list[nn.Module]] = {}
    for name in ("bias", "weight"):
        if parametrize.is_parametrized(layer, name):
            chain = layer.get_submodule(f"parametrizations.{name}")
            masks[name] = [part for part in chain.children() if not isinstance(part, OnGrid)]
            parametrized.remove(layer, name, keep_result=False)
    # Only now: a parametrization gives a bare layer a class that no copy of the layer shares.
    for name, parts in masks.items():
        for part in parts:
            parametrize.register_parametrization(layer, name, part)
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


def layer_types(embeddings: bool) -> tuple[type[nn.Module], ...]:
    """Return the types of layers that can be quantised."""
    return (nn.Linear, nn.Conv1d, nn.Conv2d, *((nn.Embedding,) if embeddings else ()))


def quantizable(
    model: nn.Module, layers: Iterable[str] | None, skip: Iterable[str], *, embeddings: bool
) -> list[str]:
    """Return the paths of the selected layers that can be quantised."""
    selected = select_layers(model, layer_types(embeddings), layers, skip)
    reasons = {path: _skip_reason(model, path) for path in selected}
    found = [path for path, reason in reasons.items() if not reason]
    if not found:
        listed = "; ".join(f"{path}: {reason}" for path, reason in reasons.items())
        raise CompressError(f"no layer to quantise: {listed or 'none is selected'}.")
    return found


def float_layers(model: nn.Module, quantised: Collection[str]) -> list[str]:
    """Return the modules with weights that stay in float, with the reasons."""
    reasons: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        inside = any(path == one or path.startswith(f"{one}.") for one in quantised)
        if inside or all(parameter.ndim <= 1 for parameter in module.parameters(recurse=False)):
            continue
        owner = path.partition(".parametrizations.")[0]
        is_embedding = isinstance(model.get_submodule(owner), nn.Embedding)
        not_selected = "`embeddings` is off" if is_embedding else "not selected"
        reason = _skip_reason(model, owner) or not_selected
        reasons.setdefault(reason, []).append(owner or "the model itself")
    return [f"kept in float, {reason}: {', '.join(paths)}" for reason, paths in reasons.items()]


def _skip_reason(model: nn.Module, path: str) -> str:
    """Return why a module cannot be quantised; empty if it can."""
    module = model.get_submodule(path)
    kind = parametrize.type_before_parametrizations(module)
    if path == "":
        return "it is the whole model"
    if kind not in layer_types(embeddings=True):
        return f"quantisation of {kind.__name__} is not supported"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "its max_norm changes the entries"
    if path in shared_layers(model):
        return "another module shares its weight"
    if f"{path}.parametrizations.weight.original0" in dict(model.named_parameters()):
        return "its weight is computed from several tensors"
    return ""


Pair: TypeAlias = tuple[str, str]
TOLERANCE = 1e-5
"""Allowed relative change of the outputs after folding a batch norm."""


def fold(model: nn.Module, paths: Iterable[str], work: CalibrationContext) -> list[Pair]:
    r"""Fold batch norms into the layers directly before them, in place.

    $$\hat w = w \, \gamma / \sqrt{\sigma^2 + \epsilon} \qquad
    \hat b = (b - \mu) \, \gamma / \sqrt{\sigma^2 + \epsilon} + \beta$$

    A pair is skipped where the model's outputs would change: another operation reads the
    intermediate tensor, or a mask does not allow scaling.

    Returns:
        The folded pairs: the paths of the layer and of its batch norm, now an identity.

    Source: Jacob et al. 2018 (arXiv:1712.05877), section 3.2.
    """
    pairs = _pairs(model, set(paths), work)
    if not pairs or _fold_if_equivalent(model, pairs, work):
        return pairs
    return [pair for pair in pairs if _fold_if_equivalent(model, [pair], work)]


def _fold_if_equivalent(model: nn.Module, pairs: list[Pair], work: CalibrationContext) -> bool:
    """Fold pairs, unless the model's outputs change."""
    batch = first_batch(work)
    before = predict(model, batch, work)
    undo = [_fold_pair(model, pair) for pair in pairs]
    change = (before - predict(model, batch, work)).abs().max()
    if change <= TOLERANCE * max(1.0, float(before.abs().max())):
        return True
    for restore in reversed(undo):
        restore()
    return False


def _pairs(model: nn.Module, paths: set[str], work: CalibrationContext) -> list[Pair]:
    """Run a model to find the batch norms whose input is exactly a layer's output."""
    outputs: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()
    pairs: list[Pair] = []

    def after(path: str) -> Callable[..., None]:
        def record(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[path] = output
            calls[path] += 1

        return record

    def before(path: str) -> Callable[..., None]:
        def record(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls[path] += 1
            pairs.extend((layer, path) for layer, output in outputs.items() if output is args[0])

        return record

    norms = {
        path: module
        for path, module in model.named_modules()
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d)
        and cast("nn.BatchNorm2d", module).running_mean is not None
    }
    if not norms:
        return []
    with ExitStack() as hooks:
        for path in paths:
            hooks.enter_context(model.get_submodule(path).register_forward_hook(after(path)))
        for path, norm in norms.items():
            hooks.enter_context(norm.register_forward_pre_hook(before(path)))
        predict(model, first_batch(work), work)
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


@torch.no_grad()
def _fold_pair(model: nn.Module, pair: Pair) -> Callable[[], None]:
    """Fold one pair, and return a function that undoes it."""
    path, norm_path = pair
    layer = cast("nn.Conv2d", model.get_submodule(path))
    norm = cast("nn.BatchNorm2d", model.get_submodule(norm_path))
    weight = _original(layer, "weight")
    bias = None if layer.bias is None else _original(layer, "bias")
    before = (weight.clone(), None if bias is None else bias.clone())
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    factor = torch.rsqrt(variance.double() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight
    shift = -mean * factor if bias is None else (bias - mean) * factor
    if norm.bias is not None:
        shift = shift + norm.bias
    fold_change.apply(model, pairs=[pair])
    weight.copy_(weight * factor.view(-1, *[1] * (weight.ndim - 1)))
    _original(layer, "bias").copy_(shift)

    def undo() -> None:
        model.set_submodule(norm_path, norm)
        with torch.no_grad():
            weight.copy_(before[0])
            if before[1] is None:
                layer.bias = None
            else:
                _original(layer, "bias").copy_(before[1])

    return undo


def _original(layer: nn.Module, name: str) -> Tensor:
    """Return the original parameter under any parametrization."""
    if parametrize.is_parametrized(layer, name):
        name = f"parametrizations.{name}.original"
    return layer.get_parameter(name)
