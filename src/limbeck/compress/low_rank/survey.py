"""Factorisation plan of a model: layers to factorise, their costs, and skip reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from limbeck.compress.calls import operations, passage
from limbeck.compress.change import CompressError
from limbeck.compress.low_rank.factorizable import Convolutions, factorizable
from limbeck.compress.low_rank.forms import Form, matrix, pair
from limbeck.compress.low_rank.rank import Cost
from limbeck.compress.method import Work
from limbeck.evaluate.flops import parameters


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
    work: Work,
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
    way = passage(model, forms, work)
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
