"""Fake quantisation of biases to int32 multiples of input scale times weight scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.changes import fold as structure
from limbeck.compress.fake_quant import (
    BinaryWeight,
    InputQuantizer,
    Seen,
    TernaryWeight,
    UniformWeight,
    fake_quantize,
)
from limbeck.compress.method import CalibrationContext, CompressError
from limbeck.compress.trace import chosen, first_batch, sharing
from limbeck.core import parametrized
from limbeck.evaluate.flops import evaluating
from limbeck.export.quantized import OnGrid

LARGEST = 2**30
"""Limit of a quantised bias, so that products can be added to it in int32."""


class BiasQuantizer(nn.Module, OnGrid):
    """A bias rounded to multiples of (input scale) · (weight scale), per channel.

    Integer kernels add it to the int32 accumulator, and ONNX Runtime rounds float biases to these
    multiples when it chooses such a kernel; training simulates the same rounding.

    Args:
        layer: The layer whose `weight` and inputs are quantised.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = (layer,)  # a tuple: the layer is the parent, and must not become a child

    @torch.no_grad()
    def grid(self, original: Tensor) -> tuple[Tensor, None]:
        """Return the scale, `[channels]` or one number; the zero point is 0."""
        (layer,) = self._layer
        tensor = weight_chain(layer).original
        for link in weight_chain(layer):
            if isinstance(link, OnGrid):
                return input_quantizer(layer).grid()[0] * link.grid(tensor)[0], None
            tensor = link(tensor)
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


KINDS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d)


def quantizable(
    model: nn.Module, layers: Iterable[str] | None, skip: Iterable[str], *, embeddings: bool
) -> list[str]:
    """Return the paths of the chosen layers that can be quantised.

    Raises:
        InputError: A path or pattern matches no layer of a supported type.
        CompressError: No layer can be quantised.
    """
    named = chosen(model, _kinds(embeddings), layers, skip)
    reasons = {path: _reason(model, path) for path in named}
    taken = [path for path in named if not reasons[path]]
    if not taken:
        said = "; ".join(f"{path}: {why}" for path, why in reasons.items()) or "none is left"
        raise CompressError(f"no layer to quantise: {said}.")
    return taken


def fitting(model: nn.Module, *, embeddings: bool) -> list[str]:
    """Return the paths of all layers of a supported type, chosen or not."""
    kinds = _kinds(embeddings)
    return [path for path, module in model.named_modules() if isinstance(module, kinds)]


def _kinds(embeddings: bool) -> tuple[type[nn.Module], ...]:
    return (*KINDS, nn.Embedding) if embeddings else KINDS


def is_table(layer: nn.Module) -> bool:
    """Return whether a layer is an embedding, which has no input to round."""
    return isinstance(layer, nn.Embedding)


def left(model: nn.Module, taken: Collection[str]) -> list[str]:
    """Return the modules with weights that stay in float, with the reasons."""
    reasons: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        inside = any(path == one or path.startswith(f"{one}.") for one in taken)
        own = any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
        if own and not inside:
            owner = path.partition(".parametrizations.")[0]
            reasons.setdefault(_reason(model, owner) or _not_chosen(model, owner), []).append(
                owner or "the model itself"
            )
    return [f"left in float, {why}: {', '.join(paths)}" for why, paths in reasons.items()]


def _not_chosen(model: nn.Module, path: str) -> str:
    return "`embeddings` is off" if is_table(model.get_submodule(path)) else "not chosen"


def _reason(model: nn.Module, path: str) -> str:
    """Return why a module cannot be quantised; empty if it can."""
    module = model.get_submodule(path)
    kind = parametrize.type_before_parametrizations(module)
    if path == "":
        return "it has no path to keep"
    if kind not in (*KINDS, nn.Embedding):
        return f"{kind.__name__} has no form in few bits here"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "its entries are held to a norm"
    if path in sharing(model):
        return "another module shares its weight"
    if f"{path}.parametrizations.weight.original0" in dict(model.named_parameters()):
        return "its weight is made of several tensors"
    return ""


Pair: TypeAlias = tuple[str, str]
TOLERANCE = 1e-5
"""Allowed relative change of the outputs after folding a batch norm."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def fold(model: nn.Module, paths: Iterable[str], work: CalibrationContext) -> list[Pair]:
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


def _alone(model: nn.Module, pair: Pair, work: CalibrationContext) -> bool:
    before = _answers(model, work)
    back = _folded(model, pair)
    alike = _alike(before, _answers(model, work))
    if not alike:
        back()
    return alike


def _answers(model: nn.Module, work: CalibrationContext) -> Tensor:
    with evaluating(model), torch.no_grad():
        return work.forward(model, first_batch(work))


def _alike(before: Tensor, after: Tensor) -> bool:
    size = max(1.0, float(before.abs().max()))
    return bool((before - after).abs().max() <= TOLERANCE * size)


def _pairs(model: nn.Module, paths: set[str], work: CalibrationContext) -> list[Pair]:
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
