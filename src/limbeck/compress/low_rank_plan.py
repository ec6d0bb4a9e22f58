"""Rank selection per layer: by retained energy, or under one budget for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.compress.low_rank import (
    Convolutions,
    Decomposition,
    Form,
    decompose,
    factorizable,
    fill,
    matrix,
    moments,
    pair,
)
from limbeck.compress.method import CalibrationContext, CompressError
from limbeck.compress.trace import first_batch, operations, trace
from limbeck.evaluate.flops import evaluating, parameters


@dataclass(frozen=True)
class Cost:
    """The cost of a layer, in parameters or operations.

    Attributes:
        dense: Cost of the original layer.
        each: Cost per rank of the two replacement layers.
        highest: The highest rank to consider.

    Example:
        >>> Cost(dense=8 * 12, each=8 + 12, highest=8).most  # 5 would cost 100
        4
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
    """Return the smallest rank that retains a share of the energy.

    Example:
        >>> by_energy(np.array([0.4, 0.1, 0.0]), 0.9)
        2
    """
    # Rounding must not cost a rank: 1 - 0.9 is slightly less than 0.1.
    return int(np.argmax(losses <= 1 - energy + 1e-12)) + 1


def by_budget(
    costs: Mapping[str, Cost], losses: Mapping[str, NDArray[np.float64]], saving: int
) -> dict[str, int]:
    """Choose the ranks that reach a saving with the least loss, summed over the layers.

    Per layer, the first step goes from the dense layer to the best rank that saves, the next ones
    go down rank by rank; the ratio of loss to saving rises with each step. Greedy: the steps of all
    layers are taken in the order of that ratio until the saving is reached, which is optimal for
    every saving that falls on a step. The last layer cut regains the surplus.

    Args:
        costs: Cost of each layer, by path.
        losses: Loss of each layer per rank from 1: descending and convex.
        saving: Amount to save, in the unit of the costs; at most the saving of all layers at rank
            1.

    Returns:
        The rank of each layer that is cut, by path.

    Example:
        >>> cost = Cost(dense=64, each=16, highest=4)
        >>> losses = {"needed": np.array([0.5, 0.4, 0.3, 0]), "spare": np.array([0.1, 0, 0, 0])}
        >>> by_budget({"needed": cost, "spare": cost}, losses, saving=40)
        {'spare': 1}
    """
    steps = [
        step for path, cost in costs.items() if cost.most for step in _steps(path, cost, losses)
    ]
    ranks: dict[str, int] = {}
    saved = 0
    for step in sorted(steps, key=lambda step: step.price):
        ranks[step.path] = step.rank
        saved += step.saving
        if saved >= saving:
            cost = costs[step.path]
            ranks[step.path] = min(cost.most, step.rank + (saved - saving) // cost.each)
            break
    return ranks


@dataclass(frozen=True)
class _Step:
    """One layer's step to its next rank, with the loss per unit saved."""

    price: float
    path: str
    rank: int
    saving: int


def _steps(path: str, cost: Cost, losses: Mapping[str, NDArray[np.float64]]) -> list[_Step]:
    lost = losses[path][: cost.most]
    savings = cost.dense - cost.each * np.arange(1, cost.most + 1)
    start = int(np.argmin(lost / savings))
    further = (lost[:-1] - lost[1:])[:start][::-1] / cost.each
    # Ratios rise by construction; rounding must not reorder a layer's steps.
    prices = np.maximum.accumulate([lost[start] / savings[start], *further]).tolist()
    first = _Step(prices[0], path, start + 1, int(savings[start]))
    return [first, *(_Step(p, path, start - i, cost.each) for i, p in enumerate(prices[1:]))]


@dataclass
class Plan:
    """The layers that can be factorised, by path.

    Attributes:
        total: Cost of the whole model, in parameters or operations.
        forms: The form of each layer that can be cut.
        costs: The cost of each of them.
        left: The reason why each of the others is skipped.
    """

    total: int
    forms: dict[str, Form]
    costs: dict[str, Cost]
    left: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """Return the skipped layers, one line per reason."""
        return [
            f"left ({reason}): {', '.join(path for path in self.left if self.left[path] == reason)}"
            for reason in dict.fromkeys(self.left.values())
        ]


def plan(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    work: CalibrationContext,
    *,
    convolutions: Convolutions,
    in_operations: bool,
) -> Plan:
    """Determine which layers can be factorised, from the model's structure and one sample's trace.

    Args:
        model: Not modified.
        layers: The candidate layers, by path.
        work: The sample and the forward function.
        convolutions: The form for two-dimensional convolutions.
        in_operations: Whether costs are operations, or parameters.

    Raises:
        InputError: There is no sample.
        CompressError: No layer can be factorised.
    """
    forms, left = factorizable(model, layers, convolutions)
    way = trace(model, forms, work)
    for path in [path for path in forms if not way.inputs[path]]:
        del forms[path]
        left[path] = "it is not called: its weight is read from outside, or never"
    left |= {
        path: "recurrent weights are not factorised"
        for path, module in model.named_modules()
        if isinstance(module, nn.RNNBase)
    }
    costs = {path: parameter_cost(layers[path], form) for path, form in forms.items()}
    if in_operations:
        costs = {
            path: operation_cost(layers[path], form, way.inputs[path], costs[path].most)
            for path, form in forms.items()
        }
    found = Plan(way.operations if in_operations else parameters(model), forms, costs, left)
    if not forms:
        raise CompressError(f"no layer can be factorised. {'; '.join(found.notes)}")
    return found


def parameter_cost(layer: nn.Module, form: Form) -> Cost:
    """Count the weights of a layer, without its bias, which is unchanged.

    Example:
        >>> parameter_cost(nn.Linear(12, 8), "linear")
        Cost(dense=96, each=20, highest=8)
    """
    weight: Tensor = layer.weight  # type: ignore[assignment]
    rows, columns = matrix(weight, form).shape
    return Cost(rows * columns, rows + columns, min(rows, columns))


def operation_cost(layer: nn.Module, form: Form, inputs: tuple[Tensor, ...], highest: int) -> Cost:
    """Count the operations of a layer for the inputs of one sample.

    Example:
        >>> import torch
        >>> operation_cost(nn.Linear(12, 8), "linear", (torch.zeros(5, 12),), highest=4)
        Cost(dense=960, each=200, highest=4)
    """
    return Cost(operations(layer, inputs), operations(pair(layer, 1, form), inputs), highest)


def decompositions(
    model: nn.Module, forms: Mapping[str, Form], work: CalibrationContext, *, whiten: bool
) -> dict[str, Decomposition]:
    """Compute the principal directions of each layer.

    Args:
        model: Not modified.
        forms: The form of each layer, by path.
        work: The samples and the forward function.
        whiten: Whether the directions are those of the layer outputs, or of the weights.

    Raises:
        CompressError: A layer's weights or outputs are not finite.
    """
    seen = moments(model, forms, work) if whiten else {}
    found = {}
    for path, form in forms.items():
        weight: Tensor = model.get_submodule(path).weight  # type: ignore[assignment]
        try:
            found[path] = decompose(matrix(weight, form), seen.get(path))
        except CompressError as error:
            raise CompressError(f"{path}: {error}") from error
    return found


def cut(layer: nn.Module, form: Form, found: Decomposition, rank: int) -> nn.Sequential:
    """Build the two layers of a given rank that best approximate a layer.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> two = cut(layer, "linear", decompose(layer.weight), 2)
        >>> torch.allclose(two(torch.eye(3)), layer(torch.eye(3)), atol=1e-6)
        True
    """
    two = pair(layer, rank, form)
    bias: Tensor | None = None if form == "embedding" else layer.bias  # type: ignore[assignment]
    fill(two, *found.factors(rank), bias, form)
    return two


def swap(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Replace the modules at given paths, and return the previous ones."""
    before = {path: model.get_submodule(path) for path in modules}
    for path, module in modules.items():
        model.set_submodule(path, module)
    return before


def answers(model: nn.Module, modules: Mapping[str, nn.Module], work: CalibrationContext) -> Tensor:
    """Return a model's outputs for the first batch with replaced modules.

    Args:
        model: Not modified.
        modules: The replacements by path, for this call only.
        work: The batch and the forward function.

    Raises:
        CompressError: The model does not run with the replacements.
    """
    before = swap(model, modules)
    try:
        with evaluating(model), torch.no_grad():
            return work.forward(model, first_batch(work))
    except (AttributeError, TypeError, RuntimeError) as error:
        raise CompressError(
            f"the model does not run with two layers at {', '.join(modules)}: {error}. If its code "
            "reads the weight or the sizes of a layer, skip that layer."
        ) from error
    finally:
        swap(model, before)


def sensitivities(
    model: nn.Module, cuts: Mapping[str, nn.Module], work: CalibrationContext
) -> dict[str, float]:
    """Measure the mean squared change of the outputs when one layer alone is cut.

    Args:
        model: Not modified.
        cuts: The replacement of each layer, by path.
        work: The batch and the forward function.

    Raises:
        CompressError: The model does not run with two layers instead of one.
    """
    dense = answers(model, {}, work).double()
    return {
        path: float((answers(model, {path: two}, work).double() - dense).square().mean())
        for path, two in cuts.items()
    }
