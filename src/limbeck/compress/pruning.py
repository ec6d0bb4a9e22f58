"""Shared parts of unstructured pruning methods: layer selection, checks and masking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList

from limbeck.compress.changes.masks import Mask, apply, clear, mask_of, settle
from limbeck.compress.mask_schedule import count_of, smallest
from limbeck.compress.masked_weights import KINDS, masked_weights, sparsity_of, weights_of
from limbeck.compress.method import CompressError, TransformResult
from limbeck.compress.trace import chosen, sharing
from limbeck.errors import InputError, Problem

Sparsity: TypeAlias = Annotated[
    float, Field(ge=0, lt=1, description="The share of weights that become zero.")
]
Scope: TypeAlias = Annotated[
    Literal["global", "layer"],
    Field(description="Whether weights of all layers are ranked together, or each layer's alone."),
]
Layers: TypeAlias = Annotated[
    list[str] | None,
    Field(
        description="Paths or patterns of layers; none takes convolutions, linear and recurrent "
        "layers and attention. An embedding is taken only where it is named."
    ),
]
Skip: TypeAlias = Annotated[list[str], Field(description="Paths or patterns of layers left alone.")]
Begin: TypeAlias = Annotated[
    float, Field(ge=0, lt=1, description="Progress of the training at which masks begin to grow.")
]
End: TypeAlias = Annotated[
    float, Field(gt=0, le=1, description="Progress of the training at which masks are complete.")
]
Names: TypeAlias = Mapping[str, list[str]]


def prunable(model: nn.Module, layers: Sequence[str] | None, skip: Sequence[str]) -> Names:
    """Return the names of the prunable weights of each layer, by path.

    Layers that share a weight with another are skipped, unless selected by name.

    Raises:
        InputError: A pattern matches no layer with such weights, or one whose weight is computed
            from several tensors or is shared with another layer.
        CompressError: The model has no such layer.

    Example:
        >>> prunable(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), None, [])
        {'0': ['weight']}
    """
    kinds = KINDS if layers is None else (*KINDS, nn.Embedding)
    found = chosen(model, kinds, layers, skip)
    if not found:
        kinds_said = ", ".join(kind.__name__ for kind in kinds)
        raise CompressError(f"nothing can be pruned: the model has no layer of {kinds_said}.")
    shared = sharing(model, two_names=False) & found.keys()
    if shared and (layers is not None or shared == found.keys()):
        allowed = "layers whose weights no other layer has"
        fix = "A mask on one would not hold on the other: skip them, or untie the weights."
        raise InputError(Problem("layers", sorted(shared), allowed, fix))
    names = {path: weights_of(layer) for path, layer in found.items() if path not in shared}
    composed = [path for path, of_layer in names.items() if _composed(found[path], of_layer)]
    if composed:
        fix = "Skip them, or remove that parametrization first."
        raise InputError(Problem("layers", composed, "weights that are one tensor each", fix))
    return names


def start(model: nn.Module, layers: Sequence[str] | None, skip: Sequence[str]) -> Names:
    """Fix masks that still grow, so that others can start; return the prunable weights."""
    names = prunable(model, layers, skip)
    settle(model)
    return names


def groups_of(names: Names, scope: str) -> list[Names]:
    """Group the weights that are ranked together."""
    return [names] if scope == "global" else [{path: found} for path, found in names.items()]


def refuse(model: nn.Module, names: Names, *, sparsity: float, scope: str) -> None:
    """Raise unless the sparsity exceeds the present one: masks only grow.

    Raises:
        InputError: The present sparsity is higher.
        CompressError: The present sparsity is equal.
    """
    problems, more = [], False
    for group in groups_of(names, scope):
        zeros, total = _counts(model, group)
        count = count_of(sparsity, total)
        more |= count > zeros
        if count < zeros:
            where = "sparsity" if scope == "global" else f"sparsity of {next(iter(group))}"
            fix = "Masks only grow: ask for more, or skip what is masked enough."
            problems.append(Problem(where, sparsity, f"at least {zeros / total:.4g}", fix))
    if problems:
        raise InputError(*problems)
    if not more:
        shown = ", ".join(list(names)[:5]) + (" and others" if len(names) > 5 else "")
        raise CompressError(
            f"nothing would be pruned: at a sparsity of {sparsity:g} no more weights of {shown} "
            "are masked than there are already."
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
    """Mask the lowest-scoring weights, to an exact count.

    Args:
        model: Modified in place.
        names: The weights to mask, of each layer by path.
        score: Function that scores the elements of a weight.
        sparsity: The final share of zeros, rounded to a whole number of weights.
        scope: Whether all are ranked together (`global`) or each layer's alone (`layer`).
        by: Name of the criterion, for the report.

    Raises:
        InputError: The present sparsity is higher.
        CompressError: The present sparsity is equal.
    """
    refuse(model, names, sparsity=sparsity, scope=scope)
    weights = masked(model, names)
    for group in groups_of(names, scope):
        ranked = [weights[path][name] for path, found in group.items() for name in found]
        scores = [score_of(weight, score) for weight in ranked]
        count = count_of(sparsity, sum(one.numel() for one in scores))
        for weight, least in zip(ranked, smallest(scores, count), strict=True):
            restrict(weight, ~least)
    return told(model, names, by=by)


def masked(model: nn.Module, names: Names) -> dict[str, dict[str, ParametrizationList]]:
    """Register masks where missing, and return the parametrizations of the weights."""
    apply(model, layers=names)
    return {path: masked_weights(model)[path] for path in names}


@torch.no_grad()
def restrict(weight: ParametrizationList, keep: Tensor) -> None:
    """Mask a weight where `keep` is false, in addition to its present mask."""
    cast("Mask", mask_of(weight)).mask.logical_and_(keep)
    clear(weight)


def told(model: nn.Module, names: Names, *, by: str) -> TransformResult:
    """Return the result of masking, for the report."""
    zeros, total = _counts(model, names)
    of_layers = sparsity_of(model)
    notes = [
        f"{path} has no weight left: it answers with its bias alone"
        for path in names
        if of_layers[path] == 1
    ]
    untouched = [path for path in names if of_layers[path] == 0]
    if untouched:
        notes.append(f"no weight was masked in {', '.join(untouched)}")
    what = (
        f"{zeros:,} of {total:,} weights in {len(names)} layers masked ({zeros / total:.2%}) {by}"
    )
    notes += _left(model, names)
    return TransformResult({"kind": "masks", "layers": dict(names)}, what, tuple(notes))


def _left(model: nn.Module, names: Names) -> list[str]:
    """Return a note on the layers skipped because they share a weight."""
    kinds = (*KINDS, nn.Embedding)
    left = [
        path
        for path in sorted(sharing(model, two_names=False) - names.keys())
        if isinstance(model.get_submodule(path), kinds)
    ]
    return [f"left: {', '.join(left)} (another layer shares the weight)"] if left else []


def grown(
    model: nn.Module, names: Names, growth: Mapping[str, Any], *, what: str
) -> TransformResult:
    """Register masks that grow in the training that follows."""
    apply(model, layers=names, growth=growth)
    total = _counts(model, names)[1]
    change = {"kind": "masks", "layers": dict(names), "growth": dict(growth)}
    said = f"{what} of {total:,} weights in {len(names)} layers, in the training that follows"
    return TransformResult(change, said, tuple(_left(model, names)))


def score_of(weight: ParametrizationList, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Score a weight's elements; masked ones rank lowest."""
    mask = cast("Mask", mask_of(weight)).mask
    return score(weight.original.detach()).masked_fill(~mask, -torch.inf)


def _composed(layer: nn.Module, names: Sequence[str]) -> bool:
    """Return whether one of a layer's weights is computed from several tensors."""
    weights = [_parametrized(layer, name) for name in names]
    return any(weight is not None and not weight.is_tensor for weight in weights)


def _counts(model: nn.Module, names: Names) -> tuple[int, int]:
    """Count the masked and all weights."""
    zeros = total = 0
    for path, found in names.items():
        layer = model.get_submodule(path)
        for name in found:
            total += getattr(layer, name).numel()
            weight = _parametrized(layer, name)
            mask = None if weight is None else mask_of(weight)
            zeros += 0 if mask is None else int((~mask.mask).sum())
    return zeros, total


def _parametrized(layer: nn.Module, name: str) -> ParametrizationList | None:
    """Return the parametrizations of a weight, or None."""
    if not parametrize.is_parametrized(layer, name):
        return None
    return cast("ParametrizationList", cast("nn.ModuleDict", layer.parametrizations)[name])
