"""Models in few bits as ONNX: whole numbers in the file, and the rounding of what flows.

Training rounds floats to grids; here a copy of the model gets the whole numbers themselves. They
are read through `limbeck::dequantize`, and layers round their inputs by
`limbeck::quantize_dequantize`: two operators that `torch.export` keeps whole, and that become
DequantizeLinear, and QuantizeLinear before it. ONNX Runtime has integer kernels for what it finds
between those.

Both then compute with the same whole numbers, and answers differ by the order of float sums alone.
One exception: a sum that stands just between two whole numbers may go to either, which in deep
nets moves answers as much as another kernel of torch's own would. With steps that are powers of
two all sums are exact, and so there are no such cases.
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

from limbeck import parametrized
from limbeck.errors import LimbeckError

HIGHEST = 255
"""The highest whole number of an input: that of uint8."""


class GridError(LimbeckError):
    """A tensor does not lie on the grid that its quantiser names."""


class OnGrid(ABC):
    """A parametrization whose tensor takes whole numbers times a step."""

    @abstractmethod
    def grid(self, original: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give the step and the zero point (None for 0) that a tensor gets.

        Args:
            original: What the parametrization is given.

        Returns:
            One number each, or one for each entry of the first axis.
        """


class RoundsInput(ABC):
    """A module that rounds what it is given to a grid."""

    @abstractmethod
    def as_rounding(self) -> Rounding:
        """Give the module that does the same in the operators that are exported."""


@dataclass(frozen=True)
class Integers:
    """A tensor as (values − zero_point) · scale.

    Attributes:
        values: Whole numbers, int8 or, for biases, int32.
        scale: One number, or one for each entry of the axis.
        zero_point: The same, of the values' type; None is 0.
        axis: The axis that the scales are along.
    """

    values: Tensor
    scale: Tensor
    zero_point: Tensor | None
    axis: int = 0


@torch.library.custom_op("limbeck::dequantize", mutates_args=())
def dequantize(values: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int) -> Tensor:
    """Turn whole numbers into floats, (values − zero_point) · scale; scales go along an axis.

    Example:
        >>> values = torch.tensor([[2], [4]], dtype=torch.int8)
        >>> dequantize(values, torch.tensor([0.5, 2.0]), None, 0)
        tensor([[1.],
                [8.]])
    """
    shape = [-1 if scale.ndim and at == axis else 1 for at in range(values.ndim)]
    counted = values.to(scale.dtype)
    if zero_point is not None:
        counted = counted - zero_point.to(scale.dtype).view(shape)
    return counted * scale.view(shape)


@dequantize.register_fake
def _(values: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int) -> Tensor:
    return values.new_empty(values.shape, dtype=scale.dtype)


@torch.library.custom_op("limbeck::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, zero_point: Tensor, highest: int) -> Tensor:
    """Round floats to a grid of whole numbers from 0 to `highest`, and give them as floats.

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
    """Say how the two operators are written in ONNX, as `torch.onnx.export` asks for it."""
    import numpy as np
    from onnx import numpy_helper
    from onnxscript import opset18 as op

    def bound(value: int) -> Any:
        return op.Constant(value=numpy_helper.from_array(np.array(value, np.uint8)))

    def written(values: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.DequantizeLinear(values, scale, zero_point, axis=axis)

    def rounded(x: Any, scale: Any, zero_point: Any, highest: int) -> Any:
        whole = op.QuantizeLinear(x, scale, zero_point)
        if highest < HIGHEST:
            whole = op.Clip(whole, bound(0), bound(highest))
        return op.DequantizeLinear(whole, scale, zero_point)

    operators = torch.ops.limbeck
    return {
        operators.dequantize.default: written,
        operators.quantize_dequantize.default: rounded,
    }


class Rounding(nn.Module):
    """Rounds its input to whole numbers from 0 to `highest`, times a step."""

    def __init__(self, scale: Tensor, zero_point: Tensor, highest: int) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.highest = highest

    def forward(self, x: Tensor) -> Tensor:
        """Give the rounded input."""
        rounded: Tensor = quantize_dequantize(x, self.scale, self.zero_point, self.highest)
        return rounded


class _Stored(nn.Module):
    """The floats of stored whole numbers, as a parametrization over these."""

    def __init__(self, integers: Integers) -> None:
        super().__init__()
        self.register_buffer("scale", integers.scale)
        self.register_buffer("zero_point", integers.zero_point)
        self.axis = integers.axis

    def forward(self, values: Tensor) -> Tensor:
        floats: Tensor = dequantize(values, self.scale, self.zero_point, self.axis)
        return floats


class _StoredTable(nn.Module):
    """An embedding that looks whole numbers up: floats are made of those found, not of all."""

    weight: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, integers: Integers) -> None:
        super().__init__()
        self.register_buffer("weight", integers.values)
        self.register_buffer("scale", integers.scale)
        self.register_buffer("zero_point", integers.zero_point)

    def forward(self, ids: Tensor) -> Tensor:
        counted = F.embedding(ids, self.weight).to(self.scale.dtype)
        if self.zero_point is not None:
            counted = counted - self._of(ids, self.zero_point).to(self.scale.dtype)
        return counted * self._of(ids, self.scale)

    def _of(self, ids: Tensor, numbers: Tensor) -> Tensor:
        return numbers[ids].unsqueeze(-1) if numbers.ndim else numbers


def integers(model: nn.Module) -> dict[str, Integers]:
    """Give the whole numbers of every quantised tensor, by its name (`hidden.weight`).

    Raises:
        GridError: A tensor was changed after it was put on its grid.
    """
    return {
        f"{path}.{name}".removeprefix("."): found
        for path, module in model.named_modules()
        for name, found in _integers(module, path).items()
    }


@torch.no_grad()
def deploy(model: nn.Module) -> nn.Module:
    """Make a model compute with what will be stored, in place; its answers stay the same.

    Quantised tensors become whole numbers, input quantisers the operator that is exported, and
    other parametrizations (masks, for one) the tensors that they make.

    Args:
        model: In evaluation mode; it cannot be trained afterwards.

    Raises:
        GridError: A tensor was changed after it was put on its grid.
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
                where = f"{path}.{name}"
                found[name] = _counted(getattr(module, name), *link.grid(tensor), where=where)
    return found


def _chains(module: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    """Give what stands over a module's tensors, by their names."""
    if not parametrize.is_parametrized(module):
        return {}
    chains = module.get_submodule("parametrizations").named_children()
    return {name: cast("parametrize.ParametrizationList", chain) for name, chain in chains}


def _counted(tensor: Tensor, step: Tensor, zero: Tensor | None, *, where: str) -> Integers:
    """Count the steps of a tensor, whatever masks came after its grid: zero is on it too."""
    if not tensor.isfinite().all():
        raise GridError(f"{where} is not finite: the training went astray.")
    shape = (-1, *[1] * (tensor.ndim - 1)) if step.ndim else ()
    dtype = torch.int8 if tensor.ndim > 1 else torch.int32
    counted = (tensor / step.view(shape)).round()
    if zero is not None:
        counted += zero.view(shape)
    values = counted.to(dtype)
    # ONNX Runtime finds its integer kernels by the zero points of weights, even those that are 0.
    if zero is None and tensor.ndim > 1:
        zero = torch.zeros_like(step)
    stored = Integers(values, step, None if zero is None else zero.to(dtype))
    if not torch.equal(dequantize(values, step, stored.zero_point, 0), tensor):
        raise GridError(f"{where} was changed after it was quantised: it is off its grid.")
    return stored
