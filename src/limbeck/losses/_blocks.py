"""Functions of rows of logits, computed a block of rows at a time, in both directions.

Tensors of the size of all logits are then neither saved nor computed at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.core.tensors import precise
from limbeck.losses._kinds import DivergenceConfig, closed_form
from limbeck.targets import DenseTargets, HeadTargets

# Elements per block: on a CPU a part of the whole that fits into its caches; elsewhere enough to
# make kernel launches cheap.
_CACHED = (2**16, 2**18)
_LAUNCHED = 2**25
_PLAIN = 2**20  # up to this size, the tensors saved by autograd are negligible


class RowFunction(ABC):
    """A function of each row of logits, with its derivatives in closed form."""

    @abstractmethod
    def value(self, logits: Tensor) -> Tensor:
        """Compute the values."""

    @abstractmethod
    def vjp(self, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """Compute the gradient of the logits from that of the values."""

    @abstractmethod
    def jvp(self, logits: Tensor, value: Tensor, tangent: Tensor) -> Tensor:
        """Compute the tangent of the values from that of the logits."""


Tensors: TypeAlias = Sequence[Any]
Build: TypeAlias = Callable[[Tensors, slice | None], RowFunction]
"""A function of the further tensors and of some rows (None: all) that returns these rows' one."""


def apply_to_rows(student: Tensor, classes: int, build: Build, *tensors: Tensor | None) -> Tensor:
    """Apply a `RowFunction` to the first classes of logits: at once if there are few, or in blocks.

    A compiler fuses the operations itself.
    """
    if len(student) * classes <= _PLAIN or torch.compiler.is_compiling():
        return build(tensors, None).value(_logits(student, classes, None))
    result: Tensor = _Blockwise.apply(student, classes, build, *tensors)
    return result


def _logits(student: Tensor, classes: int, rows: slice | None) -> Tensor:
    """Return some rows of the first classes in the computation's precision."""
    student = student if rows is None else student[rows]
    return precise(student if student.shape[1] == classes else student[:, :classes])


def _blocks(student: Tensor, classes: int) -> list[slice]:
    return row_blocks(len(student), classes, student.device) or [slice(0, 0)]


class _Blockwise(torch.autograd.Function):
    """A `RowFunction` without saved tensors of logit size; backward is itself differentiable."""

    @staticmethod
    def forward(student: Tensor, classes: int, build: Build, *tensors: Tensor | None) -> Tensor:
        blocks = _blocks(student, classes)
        return torch.cat(
            [build(tensors, rows).value(_logits(student, classes, rows)) for rows in blocks]
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        student, ctx.classes, ctx.build, *tensors = inputs
        ctx.save_for_backward(student, output, *tensors)
        ctx.save_for_forward(student, output, *tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        student, value, *tensors = ctx.saved_tensors
        result = None if torch.is_grad_enabled() else _gradient(ctx, gradient)
        if result is None:  # double backward, or batched gradients
            logits = _logits(student, ctx.classes, None)
            whole = ctx.build(tensors, None).vjp(logits, value, gradient)
            result = pad_classes(whole, student.shape[1]).to(student.dtype)
        return result, *(None,) * (2 + len(tensors))

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: Tensor | None) -> Tensor:
        student, value, *tensors = ctx.saved_tensors
        parts = []
        for rows in _blocks(student, ctx.classes):
            logits, change = (_logits(side, ctx.classes, rows) for side in (student, tangent))
            parts.append(ctx.build(tensors, rows).jvp(logits, value[rows], change))
        return torch.cat(parts)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        return map_copies(_Blockwise.apply, info.batch_size, dims, inputs), 0


def _gradient(ctx: Any, gradient: Tensor) -> Tensor | None:
    """Compute the gradient block by block; None for batched gradients, as in `vmap`."""
    student, value, *tensors = ctx.saved_tensors
    result = student.new_empty(student.shape)
    result[:, ctx.classes :] = 0
    try:
        for rows in _blocks(student, ctx.classes):
            logits = _logits(student, ctx.classes, rows)
            part = ctx.build(tensors, rows).vjp(logits, value[rows], gradient[rows])
            result[rows, : ctx.classes] = part
    except RuntimeError:
        return None
    return result


def map_copies(
    function: Callable[..., Tensor], copies: int, dims: Sequence[int | None], inputs: Sequence[Any]
) -> Tensor:
    """Apply a function to each copy of `torch.func.vmap`, one after the other."""
    pairs = list(zip(inputs, dims, strict=True))
    return torch.stack(
        [
            function(*(x if dim is None else x.select(dim, copy) for x, dim in pairs))
            for copy in range(copies)
        ]
    )


def row_blocks(elements: int, classes: int, device: torch.device) -> list[slice]:
    """Divide elements into blocks of rows.

    Example:
        >>> row_blocks(5, 2**15, torch.device("cpu"))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if torch.compiler.is_compiling():  # the compiler fuses the operations itself
        return [slice(0, elements)]
    smallest, largest = _CACHED
    logits = max(smallest, min(largest, elements * classes // 16))
    rows = max(1, (logits if device.type == "cpu" else _LAUNCHED) // classes)
    return [slice(start, min(start + rows, elements)) for start in range(0, elements, rows)]


def pad_classes(gradient: Tensor, classes: int) -> Tensor:
    """Pad a gradient with 0 for the classes that only the student has."""
    missing = classes - gradient.shape[1]
    return F.pad(gradient, (0, missing)) if missing else gradient


def dense(student: Tensor, targets: DenseTargets | HeadTargets, config: DivergenceConfig) -> Tensor:
    """Compute the divergence of checked logits over the common classes, `[elements]`."""
    classes = student.shape[1]
    form: Callable[..., DenseTargets | HeadTargets] = DenseTargets
    tensors: tuple[Tensor | None, ...]
    if isinstance(targets, DenseTargets):
        tensors = (targets.logits if targets.classes <= classes else targets.logits[:, :classes],)
    else:
        head = targets if targets.classes <= classes else targets.cut(classes)
        tensors, form = (
            (head.hidden, head.weight, head.bias),
            partial(HeadTargets, softcap=head.softcap),
        )

    def build(tensors: Tensors, rows: slice | None) -> RowFunction:
        part = form(*tensors)
        if isinstance(part, HeadTargets) or rows is not None:
            part = part.take(slice(None) if rows is None else rows)
        return _DenseDivergence(part.logits, config)

    detached = (None if tensor is None else tensor.detach() for tensor in tensors)
    return apply_to_rows(student, min(classes, targets.classes), build, *detached)


@dataclass(frozen=True)
class _DenseDivergence(RowFunction):
    teacher: Tensor
    config: DivergenceConfig

    def value(self, logits: Tensor) -> Tensor:
        return closed_form(logits, self.teacher.to(logits.dtype), self.config, grad=False)[0]

    def vjp(self, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        factor = (gradient * self.config.temperature).unsqueeze(-1)
        return self._gradient(logits) * factor

    def jvp(self, logits: Tensor, value: Tensor, tangent: Tensor) -> Tensor:
        return (self._gradient(logits) * tangent).sum(-1) * self.config.temperature

    def _gradient(self, logits: Tensor) -> Any:
        return closed_form(logits, self.teacher.to(logits.dtype), self.config, grad=True)[1]
