"""ONNX export of quantised models: integer weights and rounded activations.

In training, floats are rounded to grids; in the exported copy, tensors are the integers themselves.
They are read through `limbeck::dequantize`, and layers round their inputs by
`limbeck::quantize_dequantize`: two custom operators that `torch.export` keeps, and that become
DequantizeLinear, and QuantizeLinear before it, the pattern for which ONNX Runtime has integer
kernels.

Both compute with the same integers, and outputs differ only by the order of float sums. One
exception: a sum at a rounding boundary may be rounded up or down, which in deep networks changes
outputs about as much as another torch kernel would. With power-of-two scales all sums are exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.core import parametrized
from limbeck.errors import LimbeckError

HIGHEST = 255  # the largest integer of an input, that of uint8


class GridError(LimbeckError):
    """A tensor is not on the grid of its quantiser."""


class OnGrid(ABC):
    """A parametrization whose tensor has integer values times a scale."""

    @abstractmethod
    def grid(self, original: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the scale and the zero point (None for 0) of the parametrization's input.

        They are one number each, or one per entry of the first axis.
        """


class RoundsInput(ABC):
    """A module that rounds its input to a grid."""

    @abstractmethod
    def as_rounding(self) -> Rounding:
        """Return an equivalent module in terms of the exported operators."""


@dataclass(frozen=True)
class Integers:
    """A tensor as (values − zero_point) · scale.

    Attributes:
        values: Integers, int8 or, for biases, int32.
        scale: One number, or one per entry of the first axis.
        zero_point: The same, of the values' type; None is 0.
    """

    values: Tensor
    scale: Tensor
    zero_point: Tensor | None


@torch.library.custom_op("limbeck::dequantize", mutates_args=())
def dequantize(values: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int) -> Tensor:
    """Convert integers to floats, (values − zero_point) · scale, with scales along an axis.

    Example:
        >>> values = torch.tensor([[2], [4]], dtype=torch.int8)
        >>> dequantize(values, torch.tensor([0.5, 2.0]), None, 0)
        tensor([[1.],
                [8.]])
    """
    shape = [-1 if scale.ndim and at == axis else 1 for at in range(values.ndim)]
    steps = values.to(scale.dtype)
    if zero_point is not None:
        steps = steps - zero_point.to(scale.dtype).view(shape)
    return steps * scale.view(shape)


@dequantize.register_fake
def _(values: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int) -> Tensor:
    return values.new_empty(values.shape, dtype=scale.dtype)


@torch.library.custom_op("limbeck::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, zero_point: Tensor, highest: int) -> Tensor:
    """Round floats to an integer grid from 0 to `highest`, and return them as floats.

    Example:
        >>> zero_point = torch.tensor(3, dtype=torch.uint8)
        >>> quantize_dequantize(torch.tensor([-9.0, 0.7]), torch.tensor(0.5), zero_point, 15)
        tensor([-1.5000,  0.5000])
    """
    zero = zero_point.to(x.dtype)
    return ((x / scale).round() + zero).clamp(0, highest).sub(zero) * scale


@quantize_dequantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, highest: int) -> Tensor:
    return torch.empty_like(x)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the ONNX translations of the two operators, for `torch.onnx.export`."""
    import numpy as np
    from onnx import numpy_helper
    from onnxscript import opset18 as op

    def bound(value: int) -> Any:
        return op.Constant(value=numpy_helper.from_array(np.array(value, np.uint8)))

    def dequantized(values: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.DequantizeLinear(values, scale, zero_point, axis=axis)

    def rounded(x: Any, scale: Any, zero_point: Any, highest: int) -> Any:
        whole = op.QuantizeLinear(x, scale, zero_point)
        if highest < HIGHEST:
            whole = op.Clip(whole, bound(0), bound(highest))
        return op.DequantizeLinear(whole, scale, zero_point)

    operators = torch.ops.limbeck
    return {
        operators.dequantize.default: dequantized,
        operators.quantize_dequantize.default: rounded,
    }


class Rounding(nn.Module):
    """A module that rounds its input to integers from 0 to `highest`, times a scale."""

    def __init__(self, scale: Tensor, zero_point: Tensor, highest: int) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.highest = highest

    def forward(self, x: Tensor) -> Tensor:
        """Return the rounded input."""
        rounded: Tensor = quantize_dequantize(x, self.scale, self.zero_point, self.highest)
        return rounded


class _Stored(nn.Module):
    """Dequantisation of stored integers, as a parametrization over them."""

    def __init__(self, integers: Integers) -> None:
        super().__init__()
        self.register_buffer("scale", integers.scale)
        self.register_buffer("zero_point", integers.zero_point)

    def forward(self, values: Tensor) -> Tensor:
        floats: Tensor = dequantize(values, self.scale, self.zero_point, 0)
        return floats


class _StoredTable(nn.Module):
    """An embedding of stored integers, which dequantises only the entries looked up."""

    weight: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, integers: Integers) -> None:
        super().__init__()
        self.register_buffer("weight", integers.values)
        self.register_buffer("scale", integers.scale)
        self.register_buffer("zero_point", integers.zero_point)

    def forward(self, ids: Tensor) -> Tensor:
        steps = F.embedding(ids, self.weight).to(self.scale.dtype)
        if self.zero_point is not None:
            steps = steps - self._look_up(ids, self.zero_point).to(self.scale.dtype)
        return steps * self._look_up(ids, self.scale)

    def _look_up(self, ids: Tensor, numbers: Tensor) -> Tensor:
        return numbers[ids].unsqueeze(-1) if numbers.ndim else numbers


def integers(model: nn.Module) -> dict[str, Integers]:
    """Return the integers of every quantised tensor, by name (`hidden.weight`).

    Raises:
        GridError: A tensor was changed after it was rounded.
    """
    return {
        f"{path}.{name}".removeprefix("."): found
        for path, module in model.named_modules()
        for name, found in _integers(module, path).items()
    }


@torch.no_grad()
def deploy(model: nn.Module) -> nn.Module:
    """Convert a model in evaluation mode to its stored integers, in place; outputs stay the same.

    Quantised tensors become integers, input quantisers the exported operator, and other
    parametrizations (such as masks) their resulting tensors. It cannot be trained afterwards.

    Raises:
        GridError: A tensor was changed after it was rounded.
    """
    for path, module in list(model.named_modules()):
        found = _integers(module, path)
        for name in _chains(module):
            parametrized.remove(module, name, keep_result=name not in found)
        for name, child in module.named_children():
            if isinstance(child, RoundsInput):
                module.set_submodule(name, child.as_rounding())
        if isinstance(module, nn.Embedding) and "weight" in found:
            model.set_submodule(path, _StoredTable(found["weight"]))
            continue
        for name, stored in found.items():
            delattr(module, name)
            module.register_buffer(name, stored.values)
            parametrize.register_parametrization(module, name, _Stored(stored), unsafe=True)
    return model


@torch.no_grad()
def _integers(module: nn.Module, path: str) -> dict[str, Integers]:
    found = {}
    for name, chain in _chains(module).items():
        links = list(chain)
        for at, link in enumerate(links):
            if isinstance(link, OnGrid):
                tensor = chain.original
                for before in links[:at]:
                    tensor = before(tensor)
                scale, zero = link.grid(tensor)
                found[name] = _to_integers(getattr(module, name), scale, zero, f"{path}.{name}")
    return found


def _chains(module: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    """Return the parametrizations of a module's tensors, by name."""
    if not parametrize.is_parametrized(module):
        return {}
    chains = module.get_submodule("parametrizations").named_children()
    return {name: cast("parametrize.ParametrizationList", chain) for name, chain in chains}


def _to_integers(tensor: Tensor, scale: Tensor, zero: Tensor | None, where: str) -> Integers:
    """Return a tensor as integers; masks after the grid are allowed, since zero is on it."""
    if not tensor.isfinite().all():
        raise GridError(f"{where} is not finite: the training diverged.")
    shape = (-1, *[1] * (tensor.ndim - 1)) if scale.ndim else ()
    dtype = torch.int8 if tensor.ndim > 1 else torch.int32
    steps = (tensor / scale.view(shape)).round()
    if zero is not None:
        steps += zero.view(shape)
    # ONNX Runtime selects integer kernels by the zero points of weights, even if they are 0.
    if zero is None and tensor.ndim > 1:
        zero = torch.zeros_like(scale)
    stored = Integers(steps.to(dtype), scale, None if zero is None else zero.to(dtype))
    if not torch.equal(dequantize(stored.values, scale, stored.zero_point, 0), tensor):
        raise GridError(f"{where} was changed after it was quantised: it is off its grid.")
    return stored
