"""Resizing of a model by structured pruning: on a copy first, then in place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.calls import first_batch, passage
from limbeck.compress.change import Change, CompressError
from limbeck.compress.changes import reshape
from limbeck.compress.layers import check_no_hooked_weights
from limbeck.compress.method import Work
from limbeck.errors import InputError, Problem
from limbeck.evaluate.flops import evaluating, parameters

Sizes: TypeAlias = dict[str, dict[str, dict[str, Any]]]
"""Attributes and tensor shapes of each module, by path."""


@dataclass(frozen=True)
class Cost:
    """The cost of a model, in parameters and FLOPs.

    Attributes:
        parameters: Number of parameters; shared ones count once.
        flops: FLOPs of one sample's forward pass; a multiply-add counts as two.
    """

    parameters: int
    flops: int

    def to(self, after: Cost) -> str:
        """Return the reduction to another cost, as text.

        Example:
            >>> Cost(1000, 4000).to(Cost(500, 1000))
            '1,000 to 500 parameters (50 %), 4,000 to 1,000 FLOPs (25 %)'
        """
        pairs = {
            "parameters": (self.parameters, after.parameters),
            "FLOPs": (self.flops, after.flops),
        }
        return ", ".join(
            f"{one:,} to {other:,} {name} ({other / max(one, 1):.0%})".replace("%", " %")
            for name, (one, other) in pairs.items()
        )


def cost(model: nn.Module, work: Work) -> Cost:
    """Count a model's parameters, and the FLOPs of the first sample."""
    return Cost(parameters(model), passage(model, (), work).operations)


def sizes(model: nn.Module) -> Sizes:
    """Return the integer attributes and tensor shapes of all modules.

    Example:
        >>> sizes(nn.Linear(2, 1))[""]["tensors"]
        {'weight': [1, 2], 'bias': [1]}
    """
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
    """Return the sizes that changed.

    Example:
        >>> difference(sizes(nn.Linear(2, 1)), sizes(nn.Linear(3, 1)))
        {'': {'attributes': {'in_features': 3}, 'tensors': {'weight': [1, 3]}}}
    """
    found: Sizes = {}
    for path, kinds in after.items():
        for kind, values in kinds.items():
            old = before[path][kind]
            other = {name: value for name, value in values.items() if old.get(name) != value}
            if other:
                found.setdefault(path, {})[kind] = other
    return found


def answer(model: nn.Module, work: Work) -> Tensor:
    """Compute a model's outputs for two samples, in evaluation mode."""
    with evaluating(model), torch.no_grad():
        return work.forward(model, two_samples(work))


def two_samples(work: Work) -> Mapping[str, Tensor]:
    """Return two samples: with one, a forward pass may lose the batch axis."""
    return {name: tensor[:2] for name, tensor in first_batch(work).items()}


def spare(model: nn.Module) -> nn.Module:
    """Copy a model, with gradients for all its weights.

    Raises:
        InputError: Weights are masked or otherwise parametrized, so that they cannot be resized.
    """
    check_no_hooked_weights(model)
    computed = [path for path, part in model.named_modules() if parametrize.is_parametrized(part)]
    if computed:
        given = f"masked or quantised {', '.join(computed)}"
        allowed = "a model of plain weights"
        fix = "Prune channels and heads before single weights, and before quantising."
        raise InputError(Problem("method", given, allowed, fix))
    trial = copy.deepcopy(model)
    for parameter in trial.parameters():
        parameter.grad = None
        parameter.requires_grad_(parameter.is_floating_point())
    return trial


def trouble(trial: nn.Module, work: Work, like: Tensor) -> str:
    """Return why a pruned model's output changed its shape or failed; empty if neither."""
    try:
        found = answer(trial, work)
    except Exception as error:  # a module's code may raise anything
        return f"{type(error).__name__}: {error}"
    if found.shape != like.shape:
        return f"answers of shape {list(found.shape)}, not {list(like.shape)}"
    return ""


def adopt(model: nn.Module, trial: nn.Module) -> Change:
    """Copy the sizes and weights of a pruned copy into a model, in place.

    Raises:
        CompressError: The copy has the model's size.
    """
    before, after = sizes(model), sizes(trial)
    change = difference(before, after)
    smaller = [path for path in change if "tensors" in change[path]]
    if not smaller:
        raise CompressError("nothing was cut: every weight has the shape that it had")
    reshape.apply(model, modules=change)
    with torch.no_grad():
        for path in smaller:
            cut = _tensors(trial.get_submodule(path))
            for name, tensor in _tensors(model.get_submodule(path)).items():
                tensor.copy_(cut[name])
    return {"kind": "reshape", "modules": change}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    own = (module.named_parameters, module.named_buffers)
    return dict(pair for list_ in own for pair in list_(recurse=False))


def _is_size(value: object) -> bool:
    numbers = value if isinstance(value, tuple) else (value,)
    return all(isinstance(one, int) and not isinstance(one, bool) for one in numbers)
