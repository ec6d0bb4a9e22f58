"""Rank selection per layer: by retained energy, or under one budget for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.compress.changes.factors import Form, pair
from limbeck.compress.low_rank import (
    Convolutions,
    Decomposition,
    decompose,
    factorizable,
    matrix,
    moments,
)
from limbeck.compress.method import CalibrationContext, CompressError
from limbeck.compress.trace import first_batch, operations, predict, trace
from limbeck.evaluate.flops import parameters


@dataclass(frozen=True)
class Cost:
    """The cost of a layer, in parameters or operations.

    Attributes:
        dense: Cost of the original layer.
        each: Cost per rank of the two replacement layers.
        highest: The highest rank to consider.
    """

    dense: int
    each: int
    highest: int

    @property
    def most(self) -> int:
        """Return the largest rank that reduces the cost; 0 if none does."""
        return min(self.highest, (self.dense - 1) // self.each) if self.dense else 0

    @property
    def saving(self) -> int:
        """Return the saving at rank 1; 0 if no rank saves."""
        return self.dense - self.each if self.most else 0


def residual_energy(energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the residual energy, as a share, for each rank from 1.

    Example:
        >>> residual_energy(np.array([6.0, 3.0, 1.0]))
        array([0.4, 0.1, 0. ])
    """
    tails = np.append(np.cumsum(energies[:0:-1])[::-1], 0.0)
    total = energies.sum()
    shares: NDArray[np.float64] = tails / total if total else tails
    return shares


def by_energy(losses: NDArray[np.float64], energy: float) -> int:
    """Return the smallest rank that retains a share of the energy."""
    # Rounding must not cost a rank: 1 - 0.9 is slightly less than 0.1.
    return int(np.argmax(losses <= 1 - energy + 1e-12)) + 1


def by_budget(
    costs: Mapping[str, Cost], losses: Mapping[str, NDArray[np.float64]], saving: int
) -> dict[str, int]:
    """Choose the ranks that reach a saving with the least loss, summed over the layers.

    Per layer, the first step goes from the dense layer to the best rank that saves, the next ones
    go down rank by rank; the ratio of loss to saving rises with each step. Greedy: the steps of all
    layers are taken in the order of that ratio until the saving is reached, which is optimal for
    every saving that falls on a step. The last layer regains the surplus.

    The losses of each layer, per rank from 1, are descending and convex. The saving, in the unit of
    the costs, is at most that of all layers at rank 1.

    Example:
        >>> cost = Cost(dense=64, each=16, highest=4)
        >>> losses = {"needed": np.array([0.5, 0.4, 0.3, 0]), "spare": np.array([0.1, 0, 0, 0])}
        >>> by_budget({"needed": cost, "spare": cost}, losses, saving=40)
        {'spare': 1}
    """
    steps = [
        (ratio, path, rank, saved)
        for path, cost in costs.items()
        if cost.most
        for ratio, rank, saved in _steps(cost, losses[path][: cost.most])
    ]
    ranks: dict[str, int] = {}
    total = 0
    for _, path, rank, saved in sorted(steps, key=lambda step: step[0]):
        ranks[path] = rank
        total += saved
        if total >= saving:
            cost = costs[path]
            ranks[path] = min(cost.most, rank + (total - saving) // cost.each)
            break
    return ranks


def _steps(cost: Cost, losses: NDArray[np.float64]) -> list[tuple[float, int, int]]:
    """Return one layer's steps: the loss per unit saved, the next rank, and the units saved."""
    savings = cost.dense - cost.each * np.arange(1, cost.most + 1)
    start = int(np.argmin(losses / savings))
    further = (losses[:-1] - losses[1:])[:start][::-1] / cost.each
    # Ratios rise by construction; rounding must not reorder a layer's steps.
    ratios = np.maximum.accumulate([losses[start] / savings[start], *further]).tolist()
    first = (ratios[0], start + 1, int(savings[start]))
    return [first, *((ratio, start - i, cost.each) for i, ratio in enumerate(ratios[1:]))]


@dataclass
class Plan:
    """The layers that can be factorised with their costs, and why the others are skipped, by path.

    The total is the cost of the whole model, in parameters or operations.
    """

    total: int
    forms: dict[str, Form]
    costs: dict[str, Cost]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """Return the skipped layers, one line per reason."""
        return [
            f"skipped ({reason}): {', '.join(p for p in self.skipped if self.skipped[p] == reason)}"
            for reason in dict.fromkeys(self.skipped.values())
        ]


def make_plan(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    work: CalibrationContext,
    *,
    convolutions: Convolutions,
    in_operations: bool,
) -> Plan:
    """Determine which layers can be factorised, and their costs in parameters or operations."""
    forms, skipped = factorizable(model, layers, convolutions)
    total, inputs = trace(model, forms, work)
    for path in [path for path in forms if not inputs[path]]:
        del forms[path]
        skipped[path] = "it is not called: its weight is read directly, or never"
    skipped |= {
        path: "recurrent weights are not factorised"
        for path, module in model.named_modules()
        if isinstance(module, nn.RNNBase)
    }
    costs = {path: parameter_cost(layers[path], form) for path, form in forms.items()}
    if in_operations:
        costs = {
            path: operation_cost(layers[path], form, inputs[path], costs[path].most)
            for path, form in forms.items()
        }
    found = Plan(total if in_operations else parameters(model), forms, costs, skipped)
    if not forms:
        raise CompressError(f"no layer can be factorised. {'; '.join(found.notes)}")
    return found


def parameter_cost(layer: nn.Module, form: Form) -> Cost:
    """Count the weights of a layer, without its bias, which is unchanged."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    rows, columns = matrix(weight, form).shape
    return Cost(rows * columns, rows + columns, min(rows, columns))


def operation_cost(layer: nn.Module, form: Form, inputs: list[Tensor], highest: int) -> Cost:
    """Count the operations of a layer for the inputs of one sample."""
    return Cost(operations(layer, inputs), operations(pair(layer, 1, form), inputs), highest)


def decompositions(
    model: nn.Module, forms: Mapping[str, Form], work: CalibrationContext, *, whiten: bool
) -> dict[str, Decomposition]:
    """Compute the principal directions of each layer: of its outputs, or of its weights."""
    second = moments(model, forms, work) if whiten else {}
    found = {}
    for path, form in forms.items():
        weight: Tensor = model.get_submodule(path).weight  # type: ignore[assignment]
        try:
            found[path] = decompose(matrix(weight, form), second.get(path))
        except CompressError as error:
            raise CompressError(f"{path}: {error}") from error
    return found


def approximate(layer: nn.Module, form: Form, found: Decomposition, rank: int) -> nn.Sequential:
    """Build the two layers of a given rank that best approximate a layer."""
    two: Any = pair(layer, rank, form)
    before, after = two[0].weight, two[1].weight
    first, second = found.factors(rank)
    if form == "embedding":
        first = first.T
    if form == "spatial":
        outputs, _, _, width = after.shape
        second = second.view(outputs, width, rank).transpose(1, 2)
    with torch.no_grad():
        before.copy_(first.reshape(before.shape))
        after.copy_(second.reshape(after.shape))
        if form != "embedding" and layer.bias is not None:
            two[1].bias.copy_(layer.bias)
    return cast("nn.Sequential", two)


def swap(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Replace the modules at given paths, and return the previous ones."""
    before = {path: model.get_submodule(path) for path in modules}
    for path, module in modules.items():
        model.set_submodule(path, module)
    return before


def predict_with(
    model: nn.Module, modules: Mapping[str, nn.Module], work: CalibrationContext
) -> Tensor:
    """Return a model's outputs for the first batch, with modules replaced for this call only.

    Raises:
        CompressError: The model does not run with the replacements.
    """
    before = swap(model, modules)
    try:
        return predict(model, first_batch(work), work)
    except (AttributeError, TypeError, RuntimeError) as error:
        raise CompressError(
            f"the model does not run with two layers at {', '.join(modules)}: {error}. If its code "
            "reads the weight or the sizes of a layer, skip that layer."
        ) from error
    finally:
        swap(model, before)


def sensitivities(
    model: nn.Module, pairs: Mapping[str, nn.Module], work: CalibrationContext
) -> dict[str, float]:
    """Measure the mean squared change of the outputs with one layer replaced by its pair."""
    dense = predict_with(model, {}, work).double()
    return {
        path: float((predict_with(model, {path: two}, work).double() - dense).square().mean())
        for path, two in pairs.items()
    }
