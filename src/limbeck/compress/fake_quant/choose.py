"""Selection of the layers to quantise, with the reason for each skipped one."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.change import CompressError
from limbeck.compress.layers import chosen, sharing

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
