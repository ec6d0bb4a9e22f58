"""Shared parts of unstructured pruning methods: layer selection, checks and masking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from limbeck.compress.changes.masks import Mask, apply, clear, mask_of
from limbeck.compress.mask_schedule import count_of, smallest
from limbeck.compress.masked_weights import KINDS, masked_weights, sparsity_of, weights_of
from limbeck.compress.method import CompressError, TransformResult
from limbeck.compress.trace import select_layers, shared_layers
from limbeck.errors import InputError, Problem

Sparsity: TypeAlias = Annotated[
    float, Field(ge=0, lt=1, description="Share of weights that are set to zero.")
]
Scope: TypeAlias = Annotated[
    Literal["global", "layer"],
    Field(description="Rank the weights of all layers together, or of each layer separately."),
]
Layers: TypeAlias = Annotated[
    list[str] | None,
    Field(
        description="Paths or patterns of layers; by default convolutions, linear and recurrent "
        "layers and attention. Embeddings are pruned only if they are named."
    ),
]
Skip: TypeAlias = Annotated[list[str], Field(description="Paths or patterns of layers to skip.")]
Begin: TypeAlias = Annotated[
    float, Field(ge=0, lt=1, description="Training progress at which masks begin to grow.")
]
End: TypeAlias = Annotated[
    float, Field(gt=0, le=1, description="Training progress at which masks are complete.")
]
Names: TypeAlias = Mapping[str, list[str]]
"""The names of weights of each layer, by path."""


def prunable(model: nn.Module, layers: Sequence[str] | None, skip: Sequence[str]) -> Names:
    """Return the names of the prunable weights of each layer, by path.

    Layers that share a weight with another are skipped, unless selected by name.

    Raises:
        InputError: A pattern matches no layer with such weights, or one whose weight is computed
            from several tensors or is shared with another layer.
        CompressError: The model has no such layer.
    """
    kinds = KINDS if layers is None else (*KINDS, nn.Embedding)
    found = select_layers(model, kinds, layers, skip)
    if not found:
        allowed = ", ".join(kind.__name__ for kind in kinds)
        raise CompressError(f"nothing can be pruned: the model has no layer of {allowed}.")
    shared = shared_layers(model, two_names=False) & found.keys()
    if shared and (layers is not None or shared == found.keys()):
        allowed = "layers that do not share a weight"
        fix = "A mask would apply to one of the layers only: skip them, or untie the weights."
        raise InputError(Problem("layers", sorted(shared), allowed, fix))
    names = {path: weights_of(layer) for path, layer in found.items() if path not in shared}
    composed = [path for path in names if _composed(found[path], names[path])]
    if composed:
        fix = "Skip them, or remove that parametrization first."
        raise InputError(Problem("layers", composed, "weights that are one tensor each", fix))
    return names


def _composed(layer: nn.Module, names: Sequence[str]) -> bool:
    """Return whether one of a layer's weights is computed from several tensors."""
    chains = cast("nn.ModuleDict", getattr(layer, "parametrizations", {}))
    return any(not chains[name].is_tensor for name in names if name in chains)


def groups_of(names: Names, scope: str) -> list[Names]:
    """Group the weights that are ranked together."""
    return [names] if scope == "global" else [{path: found} for path, found in names.items()]


def check_sparsity(model: nn.Module, names: Names, *, sparsity: float, scope: str) -> None:
    """Raise unless the sparsity exceeds the present one: masks only grow."""
    problems, increases = [], False
    for group in groups_of(names, scope):
        zeros, total = _counts(model, group)
        count = count_of(sparsity, total)
        increases |= count > zeros
        if count < zeros:
            where = "sparsity" if scope == "global" else f"sparsity of {next(iter(group))}"
            fix = "Masks only grow: increase the sparsity, or skip layers that are sparse enough."
            problems.append(Problem(where, sparsity, f"at least {zeros / total:.4g}", fix))
    if problems:
        raise InputError(*problems)
    if not increases:
        shown = ", ".join(list(names)[:5]) + (" and others" if len(names) > 5 else "")
        raise CompressError(
            f"nothing would be pruned: at a sparsity of {sparsity:g} no more weights of {shown} "
            "are masked than now."
        )


def prune(
    model: nn.Module,
    names: Names,
    score: Callable[[Tensor], Tensor],
    *,
    sparsity: float,
    scope: str,
    by: str,
) -> TransformResult:
    """Mask the lowest-scoring weights, to an exact count."""
    check_sparsity(model, names, sparsity=sparsity, scope=scope)
    weights = with_masks(model, names)
    for group in groups_of(names, scope):
        ranked = [weights[path][name] for path, found in group.items() for name in found]
        scores = [score_of(weight, score) for weight in ranked]
        count = count_of(sparsity, sum(one.numel() for one in scores))
        for weight, least in zip(ranked, smallest(scores, count), strict=True):
            restrict(weight, ~least)
    return masking_result(model, names, by=by)


def with_masks(model: nn.Module, names: Names) -> dict[str, dict[str, ParametrizationList]]:
    """Register masks where missing, and return the parametrizations of the weights."""
    apply(model, layers=names)
    found = masked_weights(model)
    return {path: found[path] for path in names}


@torch.no_grad()
def restrict(weight: ParametrizationList, keep: Tensor) -> None:
    """Mask a weight where `keep` is false, in addition to its present mask."""
    cast("Mask", mask_of(weight)).mask.logical_and_(keep)
    clear(weight)


def score_of(weight: ParametrizationList, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Score a weight's elements; masked ones rank lowest."""
    mask = cast("Mask", mask_of(weight)).mask
    return score(weight.original.detach()).masked_fill(~mask, -torch.inf)


def masking_result(model: nn.Module, names: Names, *, by: str) -> TransformResult:
    """Return the result of masking, for the report."""
    zeros, total = _counts(model, names)
    sparsity = sparsity_of(model)
    notes = [
        f"all weights of {path} are masked: its output is its bias"
        for path in names
        if sparsity[path] == 1
    ]
    unmasked = [path for path in names if sparsity[path] == 0]
    if unmasked:
        notes.append(f"no weight was masked in {', '.join(unmasked)}")
    share = f"{zeros:,} of {total:,} weights in {len(names)} layers masked ({zeros / total:.2%})"
    change = {"kind": "masks", "layers": dict(names)}
    return TransformResult(change, f"{share} {by}", (*notes, *_skipped(model, names)))


def grow_masks(
    model: nn.Module, names: Names, growth: Mapping[str, Any], *, what: str
) -> TransformResult:
    """Register masks that grow in the training that follows."""
    apply(model, layers=names, growth=growth)
    total = _counts(model, names)[1]
    change = {"kind": "masks", "layers": dict(names), "growth": dict(growth)}
    what = f"{what} of {total:,} weights in {len(names)} layers, in the training that follows"
    return TransformResult(change, what, tuple(_skipped(model, names)))


def _skipped(model: nn.Module, names: Names) -> list[str]:
    """Return a note on the layers skipped because they share a weight."""
    skipped = [
        path
        for path in sorted(shared_layers(model, two_names=False) - names.keys())
        if isinstance(model.get_submodule(path), (*KINDS, nn.Embedding))
    ]
    return [f"skipped: {', '.join(skipped)} (another layer shares the weight)"] if skipped else []


def _counts(model: nn.Module, names: Names) -> tuple[int, int]:
    """Count the masked and all weights."""
    masked = masked_weights(model)
    zeros = total = 0
    for path, found in names.items():
        for name in found:
            total += getattr(model.get_submodule(path), name).numel()
            if name in masked.get(path, {}):
                zeros += int((~cast("Mask", mask_of(masked[path][name])).mask).sum())
    return zeros, total
