"""Importance scores for structured pruning, and the sizes and costs of pruned models."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.changes import reshape
from limbeck.compress.method import CalibrationContext, Change, CompressError
from limbeck.compress.trace import check_no_hooked_weights, first_batch, predict, trace
from limbeck.core.modules import evaluating
from limbeck.core.samples import select_samples
from limbeck.errors import InputError, Problem
from limbeck.evaluate.flops import parameters

Scope: TypeAlias = Literal["layer", "global"]
Contribution: TypeAlias = Mapping[Tensor, Tensor]
"""Contribution of each single weight, in a tensor of the weight's shape."""


def squares(model: nn.Module) -> Contribution:
    """Return the contribution function w² (magnitude)."""
    return {weight: weight.detach().square() for weight in model.parameters()}


def first_order(model: nn.Module, work: CalibrationContext) -> Iterator[Contribution]:
    r"""Yield w · ∂L/∂w for each batch, the first-order change of the loss if a weight is removed.

    Source: Molchanov et al. 2019 (arXiv:1906.10771).
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for batch in work.batches():
        # cuDNN has no backward pass of recurrent layers in evaluation mode.
        with evaluating(model), torch.backends.cudnn.flags(enabled=False):
            loss = work.loss(model, batch)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        yield {
            weight: weight.detach() * (0 if gradient is None else gradient)
            for weight, gradient in zip(weights, gradients, strict=True)
        }


def scores(
    model: nn.Module,
    work: CalibrationContext,
    *,
    importance: Literal["magnitude", "taylor", "random"],
    parts: Mapping[str, int],
    total: Callable[[str, Contribution], Tensor],
) -> dict[str, Tensor]:
    """Compute the importance score of each part of each layer, by path.

    `magnitude` is the sum of squared weights, as a share of the layer's mean; `taylor` the
    first-order change of the loss, over all batches. `parts` is the number of parts of each layer;
    `total` sums the contributions of a layer's weights per part, as the absolute value of each
    weight tensor's sum.
    """
    if importance == "random":
        generator = torch.Generator().manual_seed(work.seed)
        return {path: torch.rand(count, generator=generator) for path, count in parts.items()}
    passes = [squares(model)] if importance == "magnitude" else first_order(model, work)
    sums = {path: torch.zeros(count, dtype=torch.float64) for path, count in parts.items()}
    for contribution in passes:
        for path in sums:
            sums[path] += total(path, contribution).cpu()
    for path, score in sums.items():
        if not score.isfinite().all():
            raise CompressError(f"{path}: weights or gradients are not finite")
    if importance == "magnitude":
        return {path: score / score.mean().clamp_min(1e-30) for path, score in sums.items()}
    return sums


def weakest(
    scores: Mapping[str, Tensor],
    ratio: float,
    *,
    scope: Scope = "layer",
    steps: Mapping[str, int] | None = None,
) -> dict[str, list[int]]:
    """Select the lowest scores, leaving every layer at least one part.

    The share `ratio` of all parts is rounded to the nearest integer, per layer or, with the scope
    `global`, over all layers. The number of remaining parts is rounded up to a multiple of `steps`.
    """
    orders = {path: score.argsort(stable=True).tolist() for path, score in scores.items()}
    if scope == "layer":
        counts = {path: _nearest(ratio * len(order)) for path, order in orders.items()}
    else:
        # The best part of each layer always stays.
        ranked = sorted(
            (scores[path][part].item(), path) for path in orders for part in orders[path][:-1]
        )
        counts = dict.fromkeys(orders, 0)
        for _, path in ranked[: _nearest(ratio * sum(map(len, orders.values())))]:
            counts[path] += 1
    selected = {}
    for path, order in orders.items():
        step = 1 if steps is None else steps[path]
        kept = max(1, len(order) - counts[path])
        kept = min(len(order), math.ceil(kept / step) * step)
        if kept < len(order):
            selected[path] = sorted(order[: len(order) - kept])
    return selected


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)


Sizes: TypeAlias = dict[str, dict[str, dict[str, Any]]]
"""Attributes and tensor shapes of each module, by path."""


@dataclass(frozen=True)
class Cost:
    """The cost of a model: its parameters, and the FLOPs of one sample (multiply-add = 2)."""

    parameters: int
    flops: int

    def to(self, after: Cost) -> str:
        """Return the reduction to another cost, as text.

        Example:
            >>> Cost(1000, 4000).to(Cost(500, 1000))
            '1,000 to 500 parameters (50 %), 4,000 to 1,000 FLOPs (25 %)'
        """
        changes = (
            ("parameters", self.parameters, after.parameters),
            ("FLOPs", self.flops, after.flops),
        )
        return ", ".join(
            f"{old:,} to {new:,} {name} ({new / max(old, 1):.0%})".replace("%", " %")
            for name, old, new in changes
        )


def cost(model: nn.Module, work: CalibrationContext) -> Cost:
    """Count a model's parameters, and the FLOPs of the first sample."""
    return Cost(parameters(model), trace(model, (), work)[0])


def sizes(model: nn.Module) -> Sizes:
    """Return the integer attributes and tensor shapes of all modules."""
    return {
        path: {
            "attributes": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in vars(module).items()
                if _is_size(value) and not name.startswith("_")
            },
            "tensors": {name: list(tensor.shape) for name, tensor in _tensors(module).items()},
        }
        for path, module in model.named_modules()
    }


def difference(before: Sizes, after: Sizes) -> Sizes:
    """Return the sizes that changed."""
    changed: Sizes = {}
    for path, kinds in after.items():
        for kind, values in kinds.items():
            old = before[path][kind]
            new = {name: value for name, value in values.items() if old.get(name) != value}
            if new:
                changed.setdefault(path, {})[kind] = new
    return changed


def two_samples(work: CalibrationContext) -> Mapping[str, Tensor]:
    """Return two samples: with one, a forward pass may lose the batch axis."""
    return select_samples(first_batch(work), work.axes, slice(2))


def trainable_copy(model: nn.Module) -> nn.Module:
    """Copy a model, with gradients for all its weights."""
    check_no_hooked_weights(model)
    computed = [path for path, part in model.named_modules() if parametrize.is_parametrized(part)]
    if computed:
        given = f"masked or quantised {', '.join(computed)}"
        fix = "Prune channels and heads before single weights, and before quantising."
        raise InputError(Problem("method", given, "a model of plain weights", fix))
    trial = copy.deepcopy(model)
    for parameter in trial.parameters():
        parameter.grad = None
        parameter.requires_grad_(parameter.is_floating_point())
    return trial


def run_error(trial: nn.Module, work: CalibrationContext, shape: torch.Size) -> str:
    """Return why a pruned model fails, or has outputs of another shape; empty if neither."""
    try:
        outputs = predict(trial, two_samples(work), work)
    except Exception as error:  # a module's code may raise anything
        return f"{type(error).__name__}: {error}"
    if outputs.shape != shape:
        return f"outputs of shape {list(outputs.shape)}, not {list(shape)}"
    return ""


def adopt(model: nn.Module, trial: nn.Module) -> Change:
    """Copy the sizes and weights of a pruned copy into a model, in place."""
    change = difference(sizes(model), sizes(trial))
    smaller = [path for path in change if "tensors" in change[path]]
    if not smaller:
        raise CompressError("nothing was pruned: every weight has its original shape")
    reshape.apply(model, modules=change)
    with torch.no_grad():
        for path in smaller:
            pruned = _tensors(trial.get_submodule(path))
            for name, tensor in _tensors(model.get_submodule(path)).items():
                tensor.copy_(pruned[name])
    return {"kind": "reshape", "modules": change}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers("", False))}


def _is_size(value: object) -> bool:
    numbers = value if isinstance(value, tuple) else (value,)
    return all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
